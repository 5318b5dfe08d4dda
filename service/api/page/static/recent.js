// The last verdicts, as a strip of thumbnails, where the service is told to keep images.

import { usePolling } from "./answers.js";
import { clockTime } from "./charts.js";
import { rarity, share } from "./figures.js";
import { paintBitmap } from "./pictures.js";
import { json } from "./service.js";
import { texts } from "./texts.js";
import { Failure, Picture, html, useRef, useState } from "./ui.js";

const decoded = (base64) =>
  createImageBitmap(new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))]));

const timeOf = ({ time }) => (typeof time === "number" ? time : Date.parse(time) / 1000);

/** `alpha` is the service's own; images do not say which one they were judged by. */
export function Recent({ everyMs, isPaused, alpha, workers }) {
  const words = texts.watch.recent;
  const [images, setImages] = useState([]);
  const [error, setError] = useState(null);
  const last = useRef({}); // the newest id of each process, as each has its own
  const answering = useRef(null);

  usePolling(async () => {
    try {
      const after = workers > 1 ? undefined : last.current[answering.current];
      const answer = await json("/recent", { query: { after } });
      const isOther = answer.process !== answering.current;
      answering.current = answer.process;
      // After a restart: ids begin anew, and the answer is to the wrong question.
      if (isOther && after !== undefined) return true;
      const next = await Promise.all(
        answer.images
          .filter(({ id }) => !(id <= last.current[answer.process]))
          .map(async (image) => ({
            ...image,
            key: `${answer.process}/${image.id}`,
            bitmap: await decoded(image.thumbnail),
          })),
      );
      if (next.length) {
        last.current[answer.process] = Math.max(...next.map(({ id }) => id));
        setImages((present) => [...present, ...next]
          .sort((a, b) => timeOf(b) - timeOf(a) || b.id - a.id)
          .slice(0, answer.capacity));
      }
      setError(null);
      return true;
    } catch (failure) {
      setError(failure);
      return failure.status === 0;
    }
  }, everyMs, isPaused);

  return html`<p class="quiet small">${words.about(alpha, workers)}</p>
    <${Failure} error=${error} />
    ${images.length === 0 && !error && html`<p class="quiet">${words.none}</p>`}
    ${images.length > 0 && html`<ol class="strip" tabindex="0" aria-label=${words.label}>
      ${images.map((image) => html`<li key=${image.key}><${Verdict} image=${image} alpha=${alpha} /></li>`)}
    </ol>`}`;
}

function Verdict({ image, alpha }) {
  const words = texts.watch.recent;
  const { p_value: p, is_anomaly: known, bitmap, score_type: score } = image;
  const isAnomaly = known ?? (p !== null && p <= alpha);
  const time = clockTime(timeOf(image));
  return html`<div class=${isAnomaly ? "flagged" : ""}>
    <${Picture} image=${bitmap} draw=${paintBitmap}
      label=${words.image(time, score, p === null ? null : share(p))} />
    <span class=${isAnomaly ? "anomaly" : ""}>${isAnomaly ? words.anomaly : words.normal(p)}</span>
    <span>${p === null ? words.noP : rarity(p)}</span>
  </div>`;
}
