// Answers of the service that are asked for while somebody looks.

import { json } from "./service.js";
import { html, useEffect, useRef, useState } from "./ui.js";

/**
 * Calls `work` at once and `everyMs` after it has ended, but not while the tab is hidden or
 * `isPaused`. Work that returns false is not done again.
 */
export function usePolling(work, everyMs, isPaused) {
  const newest = useRef(work);
  newest.current = work;
  useEffect(() => {
    if (isPaused) return undefined;
    let timer = 0;
    let isBusy = false;
    let isOver = false;
    const turn = async () => {
      if (isBusy || isOver || document.hidden) return;
      clearTimeout(timer);
      isBusy = true;
      if ((await newest.current()) === false) isOver = true;
      isBusy = false;
      if (!isOver) timer = setTimeout(turn, everyMs);
    };
    document.addEventListener("visibilitychange", turn);
    turn();
    return () => {
      isOver = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", turn);
    };
  }, [everyMs, isPaused]);
}

/** `{list, valueOf, error}`; `list` is null until the answer is there, and if it is an error. */
export function useSettings() {
  const [answer, setAnswer] = useState({ list: null, error: null });
  useEffect(() => {
    json("/settings").then(
      ({ settings }) => setAnswer({ list: settings, error: null }),
      (error) => setAnswer({ list: null, error }),
    );
  }, []);
  const valueOf = (name) => answer.list?.find((setting) => setting.name === name)?.value;
  return { ...answer, valueOf };
}

/**
 * The answer at one of the links at /, as `{found, error}`; both are null where there is no such
 * link, so that no request is in vain. It is asked for again when `turn` changes.
 */
export function useLinked(name, turn) {
  const [answer, setAnswer] = useState({ found: null, error: null });
  useEffect(() => {
    json("/", { accept: "application/json" })
      .then(({ links }) => (links[name] ? json(`/${name}`) : null))
      .then((found) => setAnswer({ found, error: null }))
      .catch((error) => setAnswer({ found: null, error }));
  }, [turn]);
  return answer;
}

/** A card with a heading. */
export const Section = ({ name, title, children }) => html`<section class="card"
  aria-labelledby=${name}><h2 id=${name}>${title}</h2>${children}</section>`;

/** Names and values. Those that are missing are left out. */
export const Facts = ({ facts }) => html`<dl class="facts">${facts
  .filter(([, value]) => value !== undefined && value !== null)
  .map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
