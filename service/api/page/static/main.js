// The frame of the page: which view is shown, and the API key where one is needed.

import { About } from "./about/view.js";
import { Latent } from "./latent/view.js";
import { Look } from "./look/view.js";
import { hasKey, json, onKeyNeeded, onVersion, root, setKey } from "./shared/service.js";
import { lastHash, readHash, store, update, useHash, useStore } from "./shared/state.js";
import { texts } from "./shared/texts.js";
import {
  Failure, html, render, useEffect, useErrorBoundary, useId, useMemo, useState,
} from "./shared/ui.js";
import { Watch } from "./watch/view.js";

const WITHOUT_MODEL = ["watch", "about"]; // whose routes have scopes of their own

const VIEWS = { look: Look, latent: Latent, watch: Watch, about: About };

function Page() {
  const hash = useHash();
  const { model } = useStore();
  const [error, setError] = useState(null);
  const [wantsKey, setWantsKey] = useState(null);
  const [broken] = useErrorBoundary();
  const view = VIEWS[hash.view] ? hash.view : "look";

  const load = async () => {
    try {
      const loaded = await json("/model");
      update({ model: loaded, ...(loaded.version === store.model?.version ? {} : { looked: [] }) });
      setError(null);
      setWantsKey(null);
    } catch (failure) {
      if (failure.status === 403) setWantsKey(null); // a key that may see other views
      if (failure.status !== 401) setError(failure);
    }
  };
  useEffect(() => {
    onKeyNeeded((wasWrong) => setWantsKey({ wasWrong }));
    onVersion((version) => {
      if (store.model && store.model.version !== version) load();
    });
    load();
  }, []);
  useEffect(() => {
    document.title = `${texts.views[view]} · ${texts.title}`;
  }, [view]);
  // As the address is now: what a view has put there since belongs to it.
  const params = useMemo(() => readHash().params, [hash.visits, model?.version]);
  const isShown = (model || (error && WITHOUT_MODEL.includes(view))) && !wantsKey;

  return html`
    <a class="skip" href="#main" onClick=${skipToMain}>${texts.skip}</a>
    <header class="top">
      <p class="brand">${texts.title}${model && html` <span>${texts.serves(model)}</span>`}</p>
      <nav aria-label=${texts.navigation}>
        ${Object.keys(VIEWS).map(
          (name) => html`<a href=${`#${name}`} onClick=${toLastState(name)} aria-current=${name === view ? "page" : null}>
            ${texts.views[name]}</a>`,
        )}
        <a href=${`${root}docs`}>${texts.api}</a>
      </nav>
    </header>
    <main id="main" tabindex="-1">
      <h1>${texts.headings[view]}</h1>
      <${Failure} error=${broken ?? error} />
      ${wantsKey && html`<${KeyForm} wasWrong=${wantsKey.wasWrong} onKey=${load} />`}
      ${isShown && html`<${VIEWS[view]} key=${`${hash.visits} ${model?.version}`} model=${model}
        params=${params} />`}
    </main>
  `;
}

const toLastState = (view) => (event) => {
  event.currentTarget.href = lastHash(view);
};

function skipToMain(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function KeyForm({ wasWrong, onKey }) {
  const id = useId();
  const submit = (event) => {
    event.preventDefault();
    const input = event.target.elements.key;
    const isAscii = /^[!-~]+$/.test(input.value.trim());
    input.setCustomValidity(isAscii ? "" : texts.key.badKey);
    if (!input.reportValidity()) return;
    setKey(input.value.trim());
    onKey();
  };
  return html`<form class="card key" onSubmit=${submit}>
    <label for=${id}>${texts.key.label}</label>
    <input id=${id} name="key" type="password" autocomplete="off" required
      onInput=${(event) => event.target.setCustomValidity("")} />
    <button>${texts.key.use}</button>
    <p>${wasWrong && hasKey() ? html`<strong role="alert">${texts.key.wrong}</strong> ` : ""}
      ${texts.key.where}</p>
  </form>`;
}

const page = document.getElementById("page");
page.replaceChildren();
render(html`<${Page} />`, page);
