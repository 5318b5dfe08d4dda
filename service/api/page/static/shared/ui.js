// What the views are built of: preact, and a few small components.

import { h, render } from "../vendor/preact.js";
import {
  useCallback, useEffect, useErrorBoundary, useMemo, useRef, useState,
} from "../vendor/hooks.js";
import htm from "../vendor/htm.js";
import { paint } from "./pictures.js";
import { texts } from "./texts.js";

export const html = htm.bind(h);
export {
  render, useCallback, useEffect, useErrorBoundary, useMemo, useRef, useState,
};

let ids = 0;

/** An id that no other element has. */
export const useId = () => useMemo(() => `id${++ids}`, []);

/** Whether a media query matches, now and whenever that changes. */
export function useMedia(query) {
  const media = useMemo(() => matchMedia(query), [query]);
  const [matches, setMatches] = useState(media.matches);
  useEffect(() => {
    const changed = () => setMatches(media.matches);
    media.addEventListener("change", changed);
    return () => media.removeEventListener("change", changed);
  }, [media]);
  return matches;
}

/**
 * What the last attempt failed with, or null; and `attempt`, which makes of async work that may
 * fail work that does not.
 */
export function useAttempt() {
  const [error, setError] = useState(null);
  const attempt = (work) => async (value) => {
    try {
      await work(value);
      setError(null);
    } catch (failure) {
      setError(failure);
    }
  };
  return [error, attempt];
}

/** A labelled slider. `shown` is the value in words, for eyes and for screen readers. */
export function Slider({ label, value, min, max, step, shown, onInput, name }) {
  const id = useId();
  return html`<div class="slider">
    <label for=${id}>${label}</label>
    <input id=${id} type="range" min=${min} max=${max} step=${step} value=${value}
      data-name=${name} aria-valuetext=${shown}
      onInput=${(event) => onInput(Number(event.target.value))} />
    <span aria-hidden="true">${shown}</span>
  </div>`;
}

/**
 * An image or a sheet on a canvas. `image` is `{pixels, shape: [C, H, W]}`, or null for a blank.
 * With an empty `label`, what is beside it says what it is.
 */
export function Picture({ image, label, caption, className = "", draw = paint }) {
  const canvas = useRef(null);
  useEffect(() => {
    if (image && canvas.current) draw(canvas.current, image);
  }, [image, draw]);
  return html`<figure class=${`picture ${className}`}>
    ${image
      ? html`<canvas ref=${canvas}
          ...${label === "" ? { "aria-hidden": "true" } : { role: "img", "aria-label": label ?? caption }} />`
      : html`<div class="blank" aria-hidden="true" />`}
    ${caption && html`<figcaption>${caption}</figcaption>`}
  </figure>`;
}

/** What the service said of a request that failed, in its own words. */
export function Failure({ error }) {
  if (!error) return null;
  return html`<p class="failure" role="alert"><strong>${error.title ?? texts.failure}</strong>
    ${" "}${error.message}</p>`;
}

/** The curl and Python lines that do what the page has just done. */
export function Commands({ curl, python, label = texts.commands.summary }) {
  return html`<details class="commands">
    <summary>${label}</summary>
    <${Line} name="curl" text=${curl} />
    ${python && html`<${Line} name="Python" text=${python} />`}
  </details>`;
}

function Line({ name, text }) {
  const [state, setState] = useState("copyShort");
  const line = useRef(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setState("copied");
    } catch { // over plain http, except from this machine, browsers let no page write there
      getSelection().selectAllChildren(line.current);
      setState("selected");
    }
    setTimeout(() => setState("copyShort"), 2500);
  };
  return html`<div class="line">
    <span>${name}</span>
    <pre ref=${line} tabindex="0" role="group" aria-label=${texts.commands.region(name)}>${text}</pre>
    <button type="button" onClick=${copy} aria-label=${texts.commands.copy(name)}>
      ${texts.commands[state]}
    </button>
  </div>`;
}

/** Let the browser save `blob` as a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/**
 * Calls `work` with the newest value only: while one call runs, others wait, and only the last of
 * them is made. What shows live values calls the service like this, so that it never falls behind.
 */
export function useNewest(work) {
  const state = useRef({ running: false, waiting: null });
  state.current.work = work;
  return useCallback(async (value) => {
    const own = state.current;
    own.waiting = { value };
    if (own.running) return;
    own.running = true;
    while (own.waiting) {
      const { value: next } = own.waiting;
      own.waiting = null;
      await own.work(next);
    }
    own.running = false;
  }, []);
}
