// What somebody should know at once, in words: shown, and said aloud when it changes.

import { compared } from "./statistics.js";
import { texts } from "../shared/texts.js";
import { html, useEffect, useRef, useState } from "../shared/ui.js";

const SPEAK_MS = 10_000;
const FULL = 0.8; // of the queue

/** What is notable between two snapshots, as codes of `texts.watch.summary`. */
export function notable({ now, then, isDown, alpha, pValues, settings }) {
  if (isDown) return ["down"];
  const grown = (pick) => (pick(now) ?? 0) > (pick(then) ?? 0);
  const total = ({ requests }) => Object.values(requests).reduce((sum, each) => sum + each, 0);
  const codes = [grown(total) ? "answering" : "idle"];
  if (grown(({ requests }) => requests["5xx"])) codes.push("failures");
  if (grown(({ refusals }) => Object.values(refusals).reduce((sum, each) => sum + each, 0))) {
    codes.push("refusals");
  }
  if (now.queue.images > FULL * settings.valueOf("max_queue_images")) codes.push("full");
  const scored = now.scored - then.scored;
  if (scored > 0 && alpha !== undefined) {
    const state = compared(now.anomalies - then.anomalies, scored, alpha);
    if (state !== "unclear") codes.push(`anomalies-${state}`);
  }
  if (pValues?.total > 0 && pValues.state === "above") codes.push("p-values");
  return codes;
}

const CALM = new Set(["answering", "idle", "anomalies-within", "anomalies-below"]);

export function Summary({ codes }) {
  const words = texts.watch.summary;
  const [spoken, setSpoken] = useState("");
  const last = useRef(0);
  const text = codes.map((code) => words[code]).join(" ");
  useEffect(() => {
    const wait = Math.max(0, last.current + SPEAK_MS - Date.now());
    const timer = setTimeout(() => {
      last.current = Date.now();
      setSpoken(text);
    }, wait);
    return () => clearTimeout(timer);
  }, [text]);
  return html`<p class="summary" data-codes=${codes.join(" ")}>
      ${codes.map((code) => html`<span class=${CALM.has(code) ? "" : "anomaly"}>
        ${CALM.has(code) ? "" : "▲ "}${words[code]} </span>`)}</p>
    <p class="visually-hidden" role="status">${spoken}</p>`;
}
