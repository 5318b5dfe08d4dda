// Where images to look at come from: files, the clipboard, the camera, examples.

import { array, images, json } from "../shared/service.js";
import { texts } from "../shared/texts.js";
import { Picture, html, useEffect, useRef, useState } from "../shared/ui.js";

const SEED = 4; // of the examples: the same for everyone
const DRAWN = 12;
const USUAL = 3; // of those that are drawn

/** Files by a button, by dropping them anywhere on the page, or from the clipboard. */
export function Files({ onFiles }) {
  const input = useRef(null);
  const [over, setOver] = useState(false);
  useEffect(() => {
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    const drag = (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const leave = (event) => {
      if (!event.relatedTarget) setOver(false);
    };
    const drop = (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setOver(false);
      onFiles([...event.dataTransfer.files]);
    };
    const paste = (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length) onFiles(files);
    };
    const all = { dragover: drag, dragleave: leave, drop, paste };
    Object.entries(all).forEach(([name, listener]) => addEventListener(name, listener));
    return () =>
      Object.entries(all).forEach(([name, listener]) => removeEventListener(name, listener));
  }, [onFiles]);
  const choose = (event) => {
    onFiles([...event.target.files]);
    event.target.value = ""; // so that the same file can be chosen again
  };
  return html`<div class=${`drop ${over ? "over" : ""}`}>
    <input ref=${input} type="file" multiple accept="image/*,.tif,.tiff" hidden
      aria-label=${texts.look.choose} onChange=${choose} />
    <button type="button" onClick=${() => input.current.click()}>${texts.look.choose}</button>
    <span class="quiet small">${texts.look.drop}</span>
  </div>`;
}

/** The camera, where there is one. `onPicture` gets a PNG file. */
export function Camera({ onPicture }) {
  const video = useRef(null);
  const [stream, setStream] = useState(null);
  const [refused, setRefused] = useState(false);
  const stop = () => {
    stream?.getTracks().forEach((track) => track.stop());
    setStream(null);
  };
  useEffect(() => {
    if (video.current) video.current.srcObject = stream;
    return () => stream?.getTracks().forEach((track) => track.stop());
  }, [stream]);
  if (!navigator.mediaDevices?.getUserMedia) return null;
  const open = async () => {
    try {
      setStream(await navigator.mediaDevices.getUserMedia({ video: true }));
      setRefused(false);
    } catch {
      setRefused(true);
    }
  };
  const take = () => {
    const { videoWidth: width, videoHeight: height } = video.current;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(video.current, 0, 0);
    canvas.toBlob((blob) => {
      onPicture(new File([blob], "camera.png", { type: "image/png" }));
      stop();
    });
  };
  if (!stream) {
    return html`<div>
      <button type="button" onClick=${open}>${texts.look.camera}</button>
      ${refused && html`<span class="small" role="alert"> ${texts.look.noCamera}</span>`}
    </div>`;
  }
  return html`<div class="camera">
    <video ref=${video} autoplay playsinline muted aria-label=${texts.look.cameraView} />
    <div class="row">
      <button type="button" onClick=${take}>${texts.look.take}</button>
      <button type="button" onClick=${stop}>${texts.look.stopCamera}</button>
    </div>
  </div>`;
}

/**
 * Images to try, as items of `useLooking`: the most usual of some that the network draws, and the
 * first of these, damaged.
 */
export async function loadExamples({ scores: [score] }) {
  const sheet = await array("/sample", { query: { n: DRAWN, seed: SEED, dtype: "uint8" } });
  const answer = await json("/anomaly-score", {
    body: sheet.data, type: "application/octet-stream", query: { score, seed: SEED, count: false },
  });
  const ranked = images(sheet)
    .map((image, i) => ({ image, score: answer.score[i] }))
    .sort((a, b) => a.score - b.score)
    .slice(0, USUAL)
    .map(({ image }) => image);
  const names = texts.look.examples;
  const [first] = ranked;
  const changed = {
    scratched: scratched(first),
    flipped: { ...first, pixels: byPlane(first, (plane) => plane.reverse()) },
    inverted: { ...first, pixels: first.pixels.map((value) => 255 - value) },
    noise: noise(first.shape),
  };
  return [
    ...ranked.map((image, i) => ({ key: `drawn${i + 1}`, name: names.drawn(i + 1), image })),
    ...Object.entries(changed).map(([key, image]) => ({ key, name: names[key], image })),
  ];
}

export function Examples({ examples, chosen, onChoose }) {
  return html`<div>
    <p class="small">${texts.look.exampleGroup}</p>
    <div class="examples" role="group" aria-label=${texts.look.exampleGroup}>
    ${examples.map(
      (example) => html`<button type="button" key=${example.key} title=${example.name}
        aria-pressed=${String(chosen === example.key)} aria-label=${example.name}
        onClick=${() => onChoose(example)}>
        <${Picture} image=${example.image} label="" />
      </button>`,
    )}
  </div></div>`;
}

function byPlane({ pixels, shape: [channels, height, width] }, change) {
  const result = new Uint8Array(pixels.length);
  const size = height * width;
  for (let c = 0; c < channels; c++) {
    result.set(change(pixels.slice(c * size, (c + 1) * size)), c * size);
  }
  return result;
}

function scratched(image) {
  const [, height, width] = image.shape;
  const pixels = byPlane(image, (plane) => {
    for (let x = 0; x < width; x++) {
      const middle = height * (0.25 + (0.4 * x) / width);
      for (let y = Math.floor(middle); y <= middle + height / 28; y++) plane[y * width + x] = 255;
    }
    return plane;
  });
  return { ...image, pixels };
}

function noise(shape) {
  const size = shape.reduce((product, side) => product * side, 1);
  let state = 1;
  const pixels = Uint8Array.from({ length: size }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes' generator
    return state >>> 24;
  });
  return { pixels, shape };
}
