// What somebody should know at once, in words: shown, and said aloud when it changes.

import { texts } from "../shared/texts.js";
import { html, useEffect, useRef, useState } from "../shared/ui.js";

const SPEAK_MS = 10_000;
const FULL = 0.8; // of the queue

/**
 * What is notable between two snapshots, as `[[code, figures]]` for `texts.watch.summary`.
 * `anomalies` and `pValues`, which may be missing, are as `judge` judges.
 */
export function notable({ now, earlier, isDown, anomalies, pValues, settings }) {
  if (isDown) return [["down"]];
  const codes = [];
  if (!earlier) codes.push(["reading"]);
  else {
    const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);
    const grown = (pick) => (pick(now) ?? 0) > (pick(earlier) ?? 0);
    if (grown(({ requests }) => requests["2xx"])) codes.push(["answering"]);
    else codes.push([grown(({ requests }) => sum(requests)) ? "failing" : "idle"]);
    if (grown(({ requests }) => requests["5xx"])) codes.push(["failures"]);
    if (grown(({ refusals }) => sum(refusals))) codes.push(["refusals"]);
  }
  if (now.queue.images > FULL * settings.valueOf("max_queue_images")) codes.push(["full"]);
  if (!earlier) return codes;
  const isSmall = pValues?.state === "above";
  if (anomalies.state === "above") codes.push([isSmall ? "both" : "above", anomalies]);
  else if (isSmall) codes.push(["small", pValues]);
  else if (anomalies.state !== "unknown") codes.push([anomalies.state]);
  return codes;
}

const CALM = new Set(["reading", "answering", "idle", "within", "below"]);

export function Summary({ codes }) {
  const words = texts.watch.summary;
  const [spoken, setSpoken] = useState("");
  const last = useRef(0);
  const sentences = codes.map(([code, figures]) => [
    CALM.has(code),
    figures ? words[code](figures) : words[code],
  ]);
  const name = codes.map(([code]) => code).join(" ");
  useEffect(() => {
    if (codes[0][0] === "reading") return undefined;
    const timer = setTimeout(() => {
      last.current = Date.now();
      setSpoken(sentences.map(([, text]) => text).join(" "));
    }, Math.max(0, last.current + SPEAK_MS - Date.now()));
    return () => clearTimeout(timer);
  }, [name]); // not whenever a figure changes
  return html`<p class="summary" data-codes=${name}>
      ${sentences.map(([isCalm, text]) => html`<span class=${isCalm ? "" : "anomaly"}>
        ${isCalm ? "" : "▲ "}${text} </span>`)}</p>
    <p class="visually-hidden" role="status">${spoken}</p>`;
}
