// Answers of the service that are asked for while somebody looks, and cards that show them.

import { json } from "./service.js";
import { html, useEffect, useRef, useState } from "./ui.js";

const RETRY_MS = 2000;

/** Whether asking again is in vain: without the key or its scope, or for what is not there. */
export const isLasting = ({ status }) => [401, 403, 404].includes(status);

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

/** `{list, valueOf, error}`; `list` is null until the answer is there. */
export function useSettings() {
  const [answer, setAnswer] = useState({ list: null, error: null });
  usePolling(async () => {
    try {
      setAnswer({ list: (await json("/settings")).settings, error: null });
      return false;
    } catch (error) {
      setAnswer({ list: null, error });
      return !isLasting(error);
    }
  }, RETRY_MS);
  const valueOf = (name) => answer.list?.find((setting) => setting.name === name)?.value;
  return { ...answer, valueOf };
}

/** A card with a heading. */
export const Section = ({ name, title, children }) => html`<section class="card"
  aria-labelledby=${name}><h2 id=${name}>${title}</h2>${children}</section>`;

/** Names and values. Those that are missing are left out. */
export const Facts = ({ facts }) => html`<dl class="facts">${facts
  .filter(([, value]) => value !== undefined && value !== null)
  .map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;

/** Buttons of which one is pressed. `options` are `[[value, text]]`. */
export const Choice = ({ label, options, chosen, onChoose }) => html`<div class="row" role="group"
  aria-label=${label}>${options.map(([value, text]) => html`<button type="button"
    aria-pressed=${String(value === chosen)} onClick=${() => onChoose(value)}>${text}</button>`)}</div>`;
