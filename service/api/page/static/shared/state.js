// What the views share: the address's hash, which makes every state a link, and a small store.

import { useEffect, useState } from "../vendor/hooks.js";

/** The view and its parameters: `#look?alpha=0.05` is `{view: "look", params: {alpha: "0.05"}}`. */
export function readHash() {
  const [view, query] = location.hash.slice(1).split("?");
  return { view: view || "look", params: Object.fromEntries(new URLSearchParams(query)) };
}

/** The hash of a view and its parameters; those that are null or undefined are left out. */
export function hashOf(view, params) {
  const given = Object.entries(params).filter(([, value]) => value !== null && value !== undefined);
  const query = new URLSearchParams(given).toString();
  return `#${view}${query && `?${query}`}`;
}

let timer = 0;
const last = {};

/** The link to a view as it was left. */
export const lastHash = (view) => last[view] ?? `#${view}`;

/**
 * Put the state of a view into the address. After a pause, as browsers refuse frequent changes, and
 * in place of the present entry of the history: a slider is not a trail of pages.
 */
export function rememberState(view, params) {
  last[view] = hashOf(view, params);
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (readHash().view === view) history.replaceState(null, "", last[view]);
  }, 200);
}

/** The view of the address, and how often a person has followed a link or gone back. */
export function useHash() {
  const [hash, setHash] = useState({ view: readHash().view, visits: 0 });
  useEffect(() => {
    const changed = () => setHash(({ visits }) => ({ view: readHash().view, visits: visits + 1 }));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return hash;
}

const listeners = new Set();

/**
 * What outlives a view: `model` is the answer of /model; `looked` are images that were looked at,
 * each `{name, thumbnail, mu, isAnomaly}`, newest last.
 */
export const store = { model: null, looked: [] };

/** Change the store, and show it. */
export function update(changes) {
  Object.assign(store, changes);
  listeners.forEach((listener) => listener());
}

/** The store, for a component that is drawn again when it changes. */
export function useStore() {
  const [, redraw] = useState(0);
  useEffect(() => {
    const listener = () => redraw((count) => count + 1);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, []);
  return store;
}

/** Bytes as text for a link, deflated: `packBytes` and back. */
export async function packBytes(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const text = btoa(Array.from(packed, (byte) => String.fromCharCode(byte)).join(""));
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export async function unpackBytes(text) {
  const packed = Uint8Array.from(
    atob(text.replaceAll("-", "+").replaceAll("_", "/")),
    (character) => character.charCodeAt(0),
  );
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
