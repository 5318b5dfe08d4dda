// Looking at one image: asks the service for everything about it, the verdict first.

import { array, images, json } from "../shared/service.js";
import { store, update } from "../shared/state.js";
import { useNewest, useRef, useState } from "../shared/ui.js";

const RAW = "application/octet-stream";
const REST_MS = 250; // without a new stroke, until all scores are asked for
const KEPT = 24; // images that were looked at
const SAMPLED = ["reconstruction_probability", "iwae"]; // which draw at random

/** The seed of scores that draw, so that the same image always has the same score. */
export const seedOf = (score) => (SAMPLED.includes(score) ? { seed: 0 } : {});

/** An image that is already as the network gets it. */
export const ofPixels = (key, name, pixels, shape) => ({ key, name, image: { pixels, shape } });

/**
 * Of an image: `{item, image, actions, answer, views, rows, error}`. `item` is `{key, name}` with
 * `image` as the network gets it, or with `file` and `invert`, and `made`, the time of a stroke.
 * `answer` is that of /anomaly-score, `views` are its pictures, `rows` all its scores. What has not
 * come yet is missing, and all of it belongs to the same item.
 */
export function useLooking(model) {
  const [shown, setShown] = useState(null);
  const latest = useRef(null);
  const rest = useRef(0);
  const round = useRef(0);
  const show = (next) => {
    latest.current = next;
    setShown(next);
  };

  const look = useNewest(async ({ item, score, alpha, began }) => {
    clearTimeout(rest.current);
    const isOver = () => began !== round.current;
    const add = (fields) => {
      if (!isOver() && latest.current?.item === item) show({ ...latest.current, ...fields });
    };
    try {
      const known = latest.current?.item === item ? latest.current : null;
      const seen = known?.image ? {} : await seenOf(item); // a file goes up once
      const image = seen.image ?? known.image;
      const body = { body: image.pixels, type: RAW };
      const query = (name) => ({ score: name, alpha, ...seedOf(name), count: false });
      const answer = await json("/anomaly-score", { ...body, query: query(score) });
      if (isOver()) return;
      const before = latest.current?.item?.key === item.key ? latest.current : {};
      const isSame = before.item === item && before.answer?.score_type === score;
      show({ ...before, item, ...seen, answer, error: null });
      if (item.made) measureAfterFrame("stroke-to-score", item.made);
      if (isSame && before.views) return; // only alpha has changed
      const [map, reconstruction] = await Promise.all([
        array("/anomaly-score", { ...body, query: { ...query(score), map: true } }),
        before.item === item && before.views
          ? before.views.reconstruction
          : array("/reconstruct", { ...body, query: { dtype: "uint8" } }).then((a) => images(a)[0]),
      ]);
      add({ views: { map: images(map)[0], reconstruction } });
      const finish = async () => {
        const others = await Promise.all(model.scores.map((name) => name === score
          ? answer : json("/anomaly-score", { ...body, query: query(name) })));
        add({ rows: others.map(rowOf) });
        const { mu } = await json("/encode", body);
        if (!isOver()) remember(item, image, mu[0], answer);
      };
      rest.current = setTimeout(() => finish().catch((error) => add({ error })), item.made ? REST_MS : 0);
    } catch (error) {
      if (!isOver()) show({ item, error });
    }
  });
  return {
    shown,
    look: (item, score, alpha) => look({ item, score, alpha, began: round.current }),
    clear: () => {
      round.current += 1;
      clearTimeout(rest.current);
      show(null);
    },
  };
}

const rowOf = (answer) => ({
  name: answer.score_type,
  score: answer.score[0],
  p: answer.p_value?.[0] ?? null,
});

/** The image as the network gets it, what was done to its file, and what to know of that. */
async function seenOf(item) {
  if (item.image) return { image: item.image };
  const query = { dtype: "uint8", ...(item.invert ? { invert: true } : {}) };
  const answer = await array("/preprocess", { body: item.file, query });
  const header = (name) => JSON.parse(answer.response.headers.get(name) ?? "[]");
  return {
    image: images(answer)[0],
    actions: header("X-Image-Files")[0]?.actions ?? [],
    warnings: header("X-Warnings"),
  };
}

/** Keep an image for the other views, with its place in the latent space. */
function remember({ key, name }, thumbnail, mu, answer) {
  const looked = { key, name, thumbnail, mu, isAnomaly: answer.is_anomaly?.[0] ?? null };
  const others = store.looked.filter((each) => each.key !== key);
  update({ looked: [...others, looked].slice(-KEPT) });
}

/** Once the browser has drawn what is set now. */
function measureAfterFrame(name, start) {
  requestAnimationFrame(() => setTimeout(() => performance.measure(name, { start })));
}
