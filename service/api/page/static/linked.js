// Parts that only some services have. The links at / say which, so that no request is in vain.

import { json } from "./service.js";
import { texts } from "./texts.js";
import { Failure, html, useEffect, useState } from "./ui.js";

/**
 * The answer at one of the service's links, as `{found, error}`; both are null where there is no
 * such link. It is asked for again when `turn` changes.
 */
export function useLinked(name, turn) {
  const [answer, setAnswer] = useState({ found: null, error: null });
  useEffect(() => {
    (async () => {
      try {
        const { links } = await json("/", { accept: "application/json" });
        if (links[name]) setAnswer({ found: await json(`/${name}`), error: null });
      } catch (error) {
        setAnswer({ found: null, error });
      }
    })();
  }, [turn]);
  return answer;
}

const isPlain = (value) => value === null || typeof value !== "object";

/** Evidence of drift, with the names that the service gives to its figures. */
export function Drift({ turn }) {
  const { found, error } = useLinked("drift", turn);
  if (!found && !error) return null;
  return html`<section class="card" aria-labelledby="drift">
    <h2 id="drift">${texts.watch.drift}</h2>
    <${Failure} error=${error} />
    ${found && html`<dl class="facts">${Object.entries(found)
      .filter(([, value]) => isPlain(value))
      .map(([name, value]) => html`<dt>${name.replaceAll("_", " ")}</dt><dd>${value ?? "–"}</dd>`)}
    </dl>`}
  </section>`;
}

/** The bundles on the shelf: a table of their names and states. */
export function Shelf({ turn }) {
  const { found, error } = useLinked("models", turn);
  if (!found && !error) return null;
  const words = texts.about.shelf;
  return html`<section class="card" aria-labelledby="shelf">
    <h2 id="shelf">${words.heading}</h2>
    <${Failure} error=${error} />
    ${found && html`<table>
      <thead><tr><th scope="col">${words.name}</th><th scope="col">${words.state}</th></tr></thead>
      <tbody>${found.models.map((each) => html`<tr key=${each.name}>
        <th scope="row">${each.name}</th><td>${each.state}</td></tr>`)}</tbody>
    </table>`}
  </section>`;
}
