// The last verdicts, as a strip of thumbnails, where the service is told to keep images.

import { usePolling } from "../shared/answers.js";
import { clockTime } from "./charts.js";
import { rarity, share } from "./figures.js";
import { paintBitmap } from "../shared/pictures.js";
import { json } from "../shared/service.js";
import { texts } from "../shared/texts.js";
import { Failure, Picture, html, useRef, useState } from "../shared/ui.js";

const decoded = (base64) =>
  createImageBitmap(new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))]));

/** `alpha` is the service's own; images do not say which one they were judged by. */
export function Recent({ everyMs, isPaused, alpha, workers }) {
  const words = texts.watch.recent;
  const [images, setImages] = useState([]);
  const [error, setError] = useState(null);
  const last = useRef({}); // the newest id of each process, as each counts its own

  usePolling(async () => {
    try {
      const known = Object.values(last.current);
      const after = known.length ? Math.min(...known) : 0;
      const { process, capacity, images: found } = await json("/recent", { query: { after } });
      if (!(process in last.current)) {
        last.current[process] = 0;
        if (after) return true; // it was asked for what is newer than images of others
      }
      const next = await Promise.all(
        found.filter(({ id }) => id > last.current[process]).map(async (image) => ({
          ...image,
          key: `${process}/${image.id}`,
          bitmap: await decoded(image.thumbnail),
        })),
      );
      last.current[process] = Math.max(last.current[process], ...next.map(({ id }) => id));
      if (next.length) {
        setImages((present) => [...present, ...next]
          .sort((a, b) => b.time - a.time || b.id - a.id)
          .slice(0, capacity));
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
  const time = clockTime(image.time);
  return html`<div class=${isAnomaly ? "flagged" : ""}>
    <${Picture} image=${bitmap} draw=${paintBitmap}
      label=${words.image(time, score, p === null ? null : share(p))} />
    <span class=${isAnomaly ? "anomaly" : ""}>${isAnomaly ? words.anomaly : words.normal(p)}</span>
    <span>${p === null ? words.noP : rarity(p)}</span>
  </div>`;
}
