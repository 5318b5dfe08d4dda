// The last verdicts, as thumbnails, where the service is told to keep images.

import { isLasting, usePolling } from "../shared/answers.js";
import { clockTime } from "./charts.js";
import { paintBitmap } from "../shared/pictures.js";
import { json } from "../shared/service.js";
import { format, texts } from "../shared/texts.js";
import { Failure, Picture, html, useRef, useState } from "../shared/ui.js";

const decoded = (base64) =>
  createImageBitmap(new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))]));

/** `alpha` is the service's own; images do not say which one they were judged by. */
export function Recent({ everyMs, isPaused, alpha, workers }) {
  const words = texts.watch.recent;
  const [images, setImages] = useState([]);
  const [error, setError] = useState(null);
  // The newest id of each process, as each counts its own; and the process that answered last.
  const known = useRef({ newest: {}, process: null });

  usePolling(async () => {
    try {
      const { newest, process: expected } = known.current;
      const after = newest[expected] ?? 0;
      const answer = await json("/recent", { query: { after } });
      const { process } = answer;
      known.current.process = process;
      // An answer to what is new since another process's image may lack some. It is asked anew.
      if (process !== expected && after) return true;
      const fresh = await Promise.all(
        answer.images.filter(({ id }) => id > (newest[process] ?? 0)).map(async (image) => ({
          ...image,
          key: `${process}/${image.id}`,
          bitmap: await decoded(image.thumbnail),
        })),
      );
      if (fresh.length) {
        newest[process] = fresh.at(-1).id;
        setImages((present) => [...present, ...fresh]
          .sort((a, b) => b.time - a.time || b.id - a.id)
          .slice(0, answer.capacity));
      }
      setError(null);
      return true;
    } catch (failure) {
      setError(failure);
      return !isLasting(failure);
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
  const { p_value: p, bitmap, score_type: score, time } = image;
  const isAnomaly = p !== null && p <= alpha;
  return html`<div class=${isAnomaly ? "flagged" : ""}>
    <${Picture} image=${bitmap} draw=${paintBitmap}
      label=${words.image(clockTime(time), score, p === null ? null : format.p(p))} />
    <span class=${isAnomaly ? "anomaly" : ""}>${isAnomaly ? words.anomaly : words.normal(p)}</span>
    <span>${p === null ? words.noP : format.oneIn(p)}</span>
  </div>`;
}
