// The view of one image, or of many: drawn, dropped, photographed or an example.

import { toPng } from "../shared/pictures.js";
import { curlLine, json, pythonLines } from "../shared/service.js";
import { packBytes, rememberState, unpackBytes } from "../shared/state.js";
import { texts } from "../shared/texts.js";
import { Commands, Failure, html, save, useEffect, useRef, useState } from "../shared/ui.js";
import { Batch, useBatch } from "./batch.js";
import { DrawingPad } from "./drawing_pad.js";
import { ScoreHistogram } from "./histogram.js";
import { Camera, Examples, Files, loadExamples } from "./inputs.js";
import { ofPixels, seedOf, useLooking } from "./looking.js";
import { AlphaSlider, Pictures, ScoreTable, ShortVerdict, Verdict } from "./verdict.js";

const LINKED_PIXELS = 4096; // of an image that a link can hold
const PAD_SIDE = 64; // of the largest image that is drawn by hand
const FIRST = "scratched"; // of the examples

const share = (text) => (Number(text) > 0 && Number(text) < 1 ? Number(text) : null);

let items = 0; // that were drawn or chosen, so that each has a key of its own

export function Look({ model, params }) {
  const [channels, height, width] = model.image_shape;
  const hasPad = channels === 1 && Math.max(height, width) <= PAD_SIDE;
  const words = texts.look;
  const [alpha, setAlpha] = useState(share(params.alpha));
  const [score, setScore] = useState(
    model.scores.includes(params.score) ? params.score : model.scores[0],
  );
  const [strength, setStrength] = useState(params.marks ? Number(params.marks) || 0 : 1);
  const [invert, setInvert] = useState(params.invert === "true");
  const [item, setItem] = useState(null);
  const [examples, setExamples] = useState([]);
  const [error, setError] = useState(null);
  const [batch, startBatch, closeBatch] = useBatch();
  const drawing = useRef(`drawing ${items++}`);
  const ownAlpha = useRef(null); // of the service, where no other is chosen
  const { shown, look, clear } = useLooking(model);
  const calibration = useCalibration(score, setError);
  const answer = shown?.answer;
  if (answer && alpha === null) ownAlpha.current = answer.alpha;
  const shownAlpha = alpha ?? ownAlpha.current;

  useEffect(() => {
    if (item) look(item, score, alpha);
  }, [item, score, alpha]);

  useEffect(() => {
    restore(params, model).then((linked) => linked && setItem(linked), setError);
    loadExamples(model).then((loaded) => {
      setExamples(loaded);
      if (params.image) return;
      const chosen = loaded.find(({ key }) => key === (params.example ?? FIRST));
      setItem((present) => present ?? chosen ?? null);
    }, setError);
  }, []);

  useEffect(() => {
    const image = shown?.image;
    if (!image) return;
    (async () => {
      const isExample = examples.some(({ key }) => key === shown.item.key);
      const isSmall = !isExample && image.pixels.length <= LINKED_PIXELS;
      rememberState("look", {
        alpha,
        score: score === model.scores[0] ? null : score,
        marks: strength === 1 ? null : strength,
        example: isExample ? shown.item.key : null,
        image: isSmall ? await packBytes(image.pixels) : null,
      });
    })();
  }, [shown?.image, alpha, score, strength, examples]);

  const open = (file) => setItem({ key: `file ${items++}`, name: file.name, file, invert });
  const onFiles = (files) => {
    if (!files.length) return;
    open(files[0]);
    closeBatch();
    if (files.length > 1) startBatch(files, score, invert);
  };
  const onInvert = (event) => {
    setInvert(event.target.checked);
    if (item?.file) setItem({ ...item, invert: event.target.checked });
  };
  const onDraw = (pixels, made) => setItem({
    ...ofPixels(drawing.current, words.drawing, pixels, model.image_shape), made });
  const onClear = () => {
    drawing.current = `drawing ${items++}`;
    setItem(null);
    setError(null);
    clear();
  };

  return html`
    <p class="lead">${words.lead(model)}</p>
    <div class="columns look">
      <section class="card source" aria-labelledby="source">
        <h2 id="source">${words.source}</h2>
        ${hasPad
          ? html`<${DrawingPad} shape=${model.image_shape} onDraw=${onDraw} onClear=${onClear} />`
          : html`<p class="quiet small">${words.noPad}</p>`}
        ${answer && html`<${ShortVerdict} answer=${answer} />`}
        <${Examples} examples=${examples} chosen=${item?.key} onChoose=${setItem} />
        <${Files} onFiles=${onFiles} />
        <${Camera} onPicture=${(file) => onFiles([file])} />
        <label class="check small"><input type="checkbox" checked=${invert} onChange=${onInvert} />
          ${words.invert}</label>
      </section>
      <div class="stack">
        <${Failure} error=${error ?? shown?.error} />
        <section class="card" aria-label=${words.result}>
          ${answer
            ? html`<${Verdict} shown=${shown} n=${calibration?.n} />
              ${calibration?.score_type === answer.score_type && html`
                <${ScoreHistogram} calibration=${calibration} score=${answer.score[0]}
                  threshold=${answer.threshold} />`}
              ${answer.p_value && html`<${AlphaSlider} alpha=${shownAlpha} own=${ownAlpha.current}
                onAlpha=${setAlpha} />`}`
            : html`<p class="quiet">${words.nothing}</p>`}
        </section>
        ${answer && html`
          <section class="card" aria-labelledby="why">
            <h2 id="why">${words.why}</h2>
            <${Pictures} shown=${shown} isScaled=${model.scaled_maps.includes(score)}
              strength=${strength} onStrength=${setStrength} />
            ${!shown.item.file && html`<button type="button" class="small"
              onClick=${async () => save(await toPng(shown.image), "image.png")}>
              ${words.saveImage}</button>`}
            <${Commands} ...${commandsOf(shown.item, { score, alpha })} />
          </section>
          <section class="card" aria-labelledby="scores">
            <h2 id="scores">${words.scores.heading}</h2>
            <p class="quiet small">${words.scores.hint}</p>
            <${ScoreTable} chosen=${score} alpha=${shownAlpha} onChoose=${setScore}
              rows=${shown.rows ?? model.scores.map((name) => ({ name }))} />
          </section>`}
        ${batch && html`<${Batch} batch=${batch} alpha=${shownAlpha ?? 0.01} setAlpha=${alpha}
          onOpen=${open} onClose=${closeBatch} />`}
      </div>
    </div>`;
}

/** The scores of clean images; null while they come, and where there are none. */
function useCalibration(score, onError) {
  const [calibration, setCalibration] = useState(null);
  useEffect(() => {
    let isStale = false;
    json("/model/calibration", { query: { score } }).then(
      (answer) => isStale || setCalibration(answer),
      (error) => isStale || error.status === 404 || onError(error),
    );
    return () => {
      isStale = true;
    };
  }, [score]);
  return calibration;
}

/** The image of a link; null if it has none. */
async function restore({ image }, { image_shape: shape }) {
  if (!image) return null;
  const pixels = await unpackBytes(image).catch(() => []);
  if (pixels.length !== shape.reduce((product, side) => product * side, 1)) {
    throw new Error(texts.look.badLink);
  }
  return ofPixels(`linked ${items++}`, texts.look.linked, pixels, shape);
}

function commandsOf({ file, name, invert }, { score, alpha }) {
  const query = { score, alpha, ...seedOf(score), ...(invert ? { invert } : {}) };
  const fileName = file ? name : "image.png";
  const { invert: _, ...rest } = query;
  const options = Object.entries({ ...rest, invert: invert && "True" })
    .filter(([, value]) => value || value === 0)
    .map(([option, value]) => `, ${option}=${option === "score" ? JSON.stringify(value) : value}`);
  return {
    curl: curlLine("/anomaly-score", { query, file: fileName }),
    python: pythonLines([
      `print(client.anomaly_score(${JSON.stringify(fileName)}${options.join("")}))`,
    ]),
  };
}
