// The bundle's card, with its plots.

import { Markdown } from "./markdown.js";
import { paintBitmap } from "./pictures.js";
import { call } from "./service.js";
import { Failure, Picture, html, useEffect, useState } from "./ui.js";

const PLOT = /^plots\/([\w-]+\.png)$/;

export function Card() {
  const [text, setText] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    call("/model/card", { accept: "text/markdown" })
      .then((response) => response.text())
      .then(setText, setError);
  }, []);
  return html`<${Failure} error=${error} />
    ${text !== null && html`<div class="model-card">
      <${Markdown} text=${text} shift=${2} Image=${Plot} />
    </div>`}`;
}

/** A plot of the bundle. Other images are not fetched: their words stand for them. */
function Plot({ address, text }) {
  const [, name] = PLOT.exec(address) ?? [];
  const [bitmap, setBitmap] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    if (!name) return;
    call(`/model/plots/${name}`, { accept: "image/png" })
      .then((response) => response.blob())
      .then(createImageBitmap)
      .then(setBitmap, setError);
  }, [name]);
  if (!name) return html`<p class="quiet">${text}</p>`;
  if (error) return html`<${Failure} error=${error} />`;
  return html`<${Picture} image=${bitmap} draw=${paintBitmap} caption=${text} className="plot" />`;
}
