// The frame of the page: which view is shown, and the API key where one is needed.

import { About } from "./about/view.js";
import { Latent } from "./latent/view.js";
import { Look } from "./look/view.js";
import { hasKey, json, onKeyNeeded, root, setKey } from "./shared/service.js";
import { update, useHash, useStore } from "./shared/state.js";
import { texts } from "./shared/texts.js";
import { Failure, html, render, useEffect, useId, useState } from "./shared/ui.js";
import { Watch } from "./watch/view.js";

const VIEWS = { look: Look, latent: Latent, watch: Watch, about: About };

function Page() {
  const hash = useHash();
  const { model } = useStore();
  const [error, setError] = useState(null);
  const [wantsKey, setWantsKey] = useState(null);
  const view = VIEWS[hash.view] ? hash.view : "look";

  const load = async () => {
    try {
      update({ model: await json("/model") });
      setError(null);
      setWantsKey(null);
    } catch (failure) {
      if (failure.status !== 401) setError(failure);
    }
  };
  useEffect(() => {
    onKeyNeeded((wasWrong) => setWantsKey({ wasWrong }));
    load();
  }, []);
  useEffect(() => {
    document.title = `${texts.views[view]} · ${texts.title}`;
  }, [view]);

  return html`
    <a class="skip" href="#main" onClick=${skipToMain}>${texts.skip}</a>
    <header class="top">
      <p class="brand">${texts.title}${model && html` <span>${texts.serves(model)}</span>`}</p>
      <nav aria-label=${texts.navigation}>
        ${Object.keys(VIEWS).map(
          (name) => html`<a href=${`#${name}`} aria-current=${name === view ? "page" : null}>
            ${texts.views[name]}</a>`,
        )}
        <a href=${`${root}docs`}>${texts.api}</a>
      </nav>
    </header>
    <main id="main" tabindex="-1">
      <h1>${texts.headings[view]}</h1>
      <${Failure} error=${error} />
      ${wantsKey && html`<${KeyForm} wasWrong=${wantsKey.wasWrong} onKey=${load} />`}
      ${model && !wantsKey &&
      html`<${VIEWS[view]} key=${view + model.version} model=${model} params=${hash.params} />`}
    </main>
  `;
}

function skipToMain(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function KeyForm({ wasWrong, onKey }) {
  const id = useId();
  const submit = (event) => {
    event.preventDefault();
    setKey(new FormData(event.target).get("key").trim());
    onKey();
  };
  return html`<form class="card key" onSubmit=${submit}>
    <label for=${id}>${texts.key.label}</label>
    <input id=${id} name="key" type="password" autocomplete="off" required />
    <button>${texts.key.use}</button>
    <p>${wasWrong && hasKey() ? html`<strong role="alert">${texts.key.wrong}</strong> ` : ""}
      ${texts.key.where}</p>
  </form>`;
}

const page = document.getElementById("page");
page.replaceChildren();
render(html`<${Page} />`, page);
