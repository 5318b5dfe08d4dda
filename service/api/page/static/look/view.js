// The view of one image, or of many: drawn, dropped, photographed or an example.

import { Batch, scoreFiles } from "./batch.js";
import { DrawingPad } from "./drawing_pad.js";
import { ScoreHistogram } from "./histogram.js";
import { Camera, Examples, Files, loadExamples } from "./inputs.js";
import { thumbnailOf, toPng } from "../shared/pictures.js";
import { array, call, curlLine, images, json, pythonLines } from "../shared/service.js";
import { packBytes, rememberState, store, unpackBytes, update } from "../shared/state.js";
import { texts } from "../shared/texts.js";
import { Commands, Failure, html, save, useEffect, useNewest, useRef, useState } from "../shared/ui.js";
import { AlphaSlider, Pictures, ScoreTable, ShortVerdict, Verdict } from "./verdict.js";

const LINKED_PIXELS = 4096; // of an image that a link can hold
const PAD_SIDE = 64; // of the largest image that is drawn by hand
const REST_MS = 250; // without a new stroke, until all scores are asked for
const KEPT = 24; // images that were looked at
const SEED = 0; // of scores that draw at random, so that the same image has the same score

export function Look({ model, params }) {
  const [channels, height, width] = model.image_shape;
  const size = channels * height * width;
  const [alpha, setAlpha] = useState(params.alpha ? Number(params.alpha) : null);
  const [score, setScore] = useState(params.score ?? model.scores[0]);
  const [invert, setInvert] = useState(params.invert === "true");
  const [item, setItem] = useState(null);
  const [answer, setAnswer] = useState(null);
  const [views, setViews] = useState(null);
  const [rows, setRows] = useState(null);
  const [calibration, setCalibration] = useState(null);
  const [examples, setExamples] = useState([]);
  const [batch, setBatch] = useState(null);
  const [controlsRate, setControlsRate] = useState(false);
  const [error, setError] = useState(null);
  const work = useRef(null);
  const rest = useRef(0);

  const query = { score, alpha, ...(item?.isFile && invert ? { invert } : {}) };
  const isScaled = (model.scaled_maps ?? []).includes(score);

  /** Ask the service everything about `looked`, the newest image; the verdict first. */
  const look = useNewest(async ({ looked, query, made }, isNewest) => {
    try {
      const body = { body: looked.body, type: looked.type };
      const scored = await json("/anomaly-score", { ...body, query: { ...query, seed: SEED } });
      setAnswer(scored);
      setError(null);
      if (made) performance.measure("stroke-to-score", { start: made });
      const invert = { invert: query.invert };
      const [input, reconstruction, map] = await Promise.all([
        looked.image ? { image: looked.image } : asSeen(looked, invert),
        array("/reconstruct", { ...body, query: { ...invert, dtype: "uint8" } }),
        array("/anomaly-score", { ...body, query: { ...query, seed: SEED, map: true } }),
      ]);
      if (!isNewest()) return;
      setViews({
        input: input.image,
        actions: input.actions,
        reconstruction: images(reconstruction)[0],
        map: images(map)[0],
      });
      clearTimeout(rest.current);
      const finish = async () => {
        setRows(await allScores(model, body, { ...query, seed: SEED }));
        await remember(looked, input.image, body, scored, invert);
      };
      rest.current = setTimeout(() => finish().catch(setError), made ? REST_MS : 0);
    } catch (failure) {
      setError(failure);
    }
  });

  useEffect(() => {
    if (item) look({ looked: item, query, made: item.made });
  }, [item, score, alpha, invert]);

  useEffect(() => {
    setCalibration(null);
    json("/model/calibration", { query: { score } }).then(setCalibration, () => {});
  }, [score]);

  useEffect(() => {
    (async () => {
      try {
        const found = await loadExamples();
        setExamples(found);
        if (params.image) {
          const pixels = await unpackBytes(params.image).catch(() => {
            throw new Error(texts.look.badLink);
          });
          setItem(numbers(texts.look.linked, pixels, model.image_shape));
        } else {
          const key = params.example ?? "scratched";
          const example = found.find((each) => each.key === key) ?? found[0];
          setItem((present) => present ?? ofExample(example));
        }
      } catch (failure) {
        setError(failure);
      }
    })();
  }, []);

  useEffect(() => {
    (async () => {
      const link = { alpha, score: score === model.scores[0] ? null : score };
      if (item?.example) link.example = item.example;
      else if (item?.image && size <= LINKED_PIXELS) link.image = await packBytes(item.body);
      if (item?.isFile && invert) link.invert = true;
      rememberState("look", link);
    })();
  }, [item, alpha, score, invert]);

  const open = (file) => setItem({ name: file.name, body: file, type: "", isFile: true, file });
  const onFiles = async (files) => {
    work.current?.abort();
    if (!files.length) return;
    open(files[0]);
    setBatch(null);
    if (files.length === 1) return;
    work.current = new AbortController();
    const { signal } = work.current;
    setBatch(files.map((file, index) => ({ file, index, name: file.name })));
    const change = (index, fields) =>
      !signal.aborted && setBatch((all) => all?.with(index, { ...all[index], ...fields }));
    scoreFiles(files, { score, ...(invert ? { invert } : {}) }, signal, change);
    for (const [index, file] of files.entries()) {
      change(index, { thumbnail: await thumbnailOf(file) });
    }
  };
  const closeBatch = () => {
    work.current?.abort();
    setBatch(null);
  };
  const onDraw = (pixels, made) =>
    setItem({ ...numbers(texts.look.drawing, pixels, model.image_shape), made });
  const onClear = () => {
    setItem(null);
    setAnswer(null);
    setViews(null);
    setRows(null);
  };
  const shownAlpha = answer?.alpha ?? alpha;
  const words = texts.look;

  return html`
    <p class="lead">${words.lead(model)}</p>
    <div class="columns look">
      <div class="stack">
        <section class="card" aria-labelledby="source">
          <h2 id="source">${words.source}</h2>
          ${channels === 1 && Math.max(height, width) <= PAD_SIDE && html`
            <${DrawingPad} shape=${model.image_shape} onDraw=${onDraw} onClear=${onClear} />
            ${answer && item && html`<${ShortVerdict} answer=${answer} />`}`}
          <${Examples} examples=${examples} chosen=${item?.example}
            onChoose=${(example) => setItem(ofExample(example))} />
          <${Files} onFiles=${onFiles} />
          <${Camera} onPicture=${(file) => onFiles([file])} />
          <label class="check small"><input type="checkbox" checked=${invert}
            onChange=${(event) => setInvert(event.target.checked)} /> ${words.invert}</label>
        </section>
      </div>
      <div class="stack">
        <${Failure} error=${error} />
        <section class="card" aria-label=${words.result}>
          ${answer && item
            ? html`<${Verdict} name=${item.name} answer=${answer} calibration=${model.calibration} />
              ${calibration && calibration.score_type === answer.score_type && html`
                <${ScoreHistogram} scores=${calibration.scores} score=${answer.score[0]}
                  threshold=${answer.threshold} />`}
              ${shownAlpha !== null && answer.p_value && html`
                <${AlphaSlider} alpha=${shownAlpha} onAlpha=${setAlpha} />`}`
            : html`<p class="quiet">${words.nothing}</p>`}
        </section>
        ${item && html`
          <section class="card" aria-labelledby="why">
            <h2 id="why">${words.why}</h2>
            <p class="small">${isScaled ? words.detectorReason : words.reason}</p>
            <${Pictures} views=${views} isScaled=${isScaled} />
            ${item.image && html`<button type="button" class="small"
              onClick=${async () => save(await toPng(item.image), "image.png")}>
              ${words.saveImage}</button>`}
            <${Commands} ...${commandsOf(item, { score, alpha }, invert)} />
          </section>
          <section class="card" aria-labelledby="scores">
            <h2 id="scores">${words.scores.heading}</h2>
            <div class="scroll"><${ScoreTable} chosen=${score} onChoose=${setScore}
              rows=${rows ?? model.scores.map((name) => ({ name }))} /></div>
          </section>`}
        ${batch && html`<${Batch} rows=${batch} alpha=${shownAlpha ?? 0.01}
          controlsRate=${controlsRate} onControlsRate=${setControlsRate}
          onOpen=${(index) => open(batch[index].file)} onClose=${closeBatch}
          commands=${batchCommands({ score, alpha }, controlsRate)} />`}
      </div>
    </div>`;
}

const numbers = (name, pixels, shape) => ({
  name,
  body: pixels,
  type: "application/octet-stream",
  image: { pixels, shape },
});

const ofExample = ({ key, name, image }) => ({
  ...numbers(name, image.pixels, image.shape),
  example: key,
});

/** A file as the network gets it, and what was done to it. */
async function asSeen({ body }, query) {
  const found = await array("/preprocess", { body, query: { ...query, dtype: "uint8" } });
  const files = JSON.parse(found.response.headers.get("X-Image-Files") ?? "[]");
  return { image: images(found)[0], actions: files[0]?.actions ?? [] };
}

/** Every score of one image, as rows of the table. */
async function allScores(model, body, query) {
  const answers = await Promise.all(
    model.scores.map((name) => json("/anomaly-score", { ...body, query: { ...query, score: name } })),
  );
  return answers.map((answer) => ({
    name: answer.score_type,
    score: answer.score[0],
    p: answer.p_value?.[0],
    isAnomaly: answer.is_anomaly?.[0],
  }));
}

/** Keep an image for the other views, with its place in the latent space. */
async function remember({ name, example, file }, thumbnail, body, answer, query) {
  const { mu } = await json("/encode", { ...body, query });
  const looked = { name, thumbnail, mu: mu[0], isAnomaly: answer.is_anomaly?.[0] ?? null };
  looked.key = example ?? file?.name ?? name;
  const others = store.looked.filter((each) => each.key !== looked.key);
  update({ looked: [...others, looked].slice(-KEPT) });
}

const fileOf = (item) => (item.isFile ? item.name : "image.png");

function commandsOf(item, { score, alpha }, invert) {
  const query = { score, alpha, ...(item.isFile && invert ? { invert } : {}) };
  const options = Object.entries({ score: JSON.stringify(score), alpha, invert: query.invert && "True" })
    .filter(([, value]) => value)
    .map(([name, value]) => `, ${name}=${value}`);
  return {
    curl: curlLine("/anomaly-score", { query, file: fileOf(item) }),
    python: pythonLines([
      `print(client.anomaly_score(${JSON.stringify(fileOf(item))}${options.join("")}))`,
    ]),
  };
}

function batchCommands({ score, alpha }, controlsRate) {
  const query = { score, alpha, fdr: controlsRate ? "bh" : null };
  const fdr = controlsRate ? ", fdr=True" : "";
  return {
    curl: `${curlLine("/anomaly-score", { query })} -F images=@first.png -F images=@second.png`,
    python: pythonLines([
      `print(client.anomaly_score(["first.png", "second.png"], score=${JSON.stringify(score)}` +
        `${alpha ? `, alpha=${alpha}` : ""}${fdr}))`,
    ]),
  };
}
