// The view of what is here: the network, its card, the settings in force.

import { Choice, Facts, Section, useSettings } from "../shared/answers.js";
import { Markdown } from "./markdown.js";
import { paintBitmap } from "../shared/pictures.js";
import { call, curlLine, hasKey, json, pythonLines, root } from "../shared/service.js";
import { rememberState, update } from "../shared/state.js";
import { format, texts } from "../shared/texts.js";
import { Commands, Failure, Picture, html, useEffect, useState } from "../shared/ui.js";

const PLOT = /^plots\/([\w-]+\.png)$/;
const SECTIONS = { card: Card, settings: Settings };
const OPEN = ["docs", "openapi.json"]; // also without a key, which links do not bear

let reloaded = null; // what the last reload answered: a new version draws the view anew

/** `model` is null where the key may not see it. */
export function About({ model, params }) {
  const words = texts.about;
  const names = model ? Object.keys(SECTIONS) : ["settings"];
  const sectionOf = ({ section }) => (names.includes(section) ? section : names[0]);
  const [section, setSection] = useState(sectionOf(params));
  useEffect(() => setSection(sectionOf(params)), [params]);
  useEffect(() => rememberState("about", { section: section === names[0] ? null : section }), [section]);

  return html`<p class="lead">${words.lead}</p>
    <div class=${model ? "columns" : ""}>
      ${model && html`<${Network} model=${model} />`}
      <${Section} name="section" title=${words.sections[section]}>
        ${model && html`<${Choice} label=${words.choice} chosen=${section} onChoose=${setSection}
          options=${names.map((name) => [name, words.sections[name]])} />`}
        <${SECTIONS[section]} key=${section} />
        <${Commands} python=${pythonLines(["print(client.model())"])} curl=${[
          curlLine("/model"),
          curlLine("/model/card"),
          curlLine("/settings"),
          curlLine("/model/reload", { method: "POST" }),
        ].join("\n")} />
      <//>
    </div>`;
}

function Network({ model }) {
  const words = texts.about.network;
  const { architecture, calibration, provenance } = model;
  const facts = [
    ["name", model.id],
    ["version", html`<code>${model.version}</code>`],
    ["architecture", words.kind(architecture)],
    ["detector", architecture.detector && words.detected],
    ["latents", model.latent_size],
    ["images", words.shape(model.image_shape)],
    ["scores", html`<ul>${model.scores.map(
      (score, i) => html`<li><code>${score}</code>${i === 0 && html` <strong>${words.isDefault}</strong>`}</li>`,
    )}</ul>`],
    ["calibration", calibration
      ? html`${words.calibration(calibration)}<br />
          ${words.smallest(format.oneIn(1 / (calibration.n + 1)))}`
      : words.uncalibrated],
    ["device", `${model.device}, ${model.dtype}${model.runtime ? `, ${model.runtime}` : ""}`],
    ["provenance", provenance.data_set],
  ];
  return html`<${Section} name="network" title=${words.heading}>
    <${Facts} facts=${facts.map(([name, value]) => [words.names[name], value])} />
    <${Reload} model=${model} />
    <p class="links">${(hasKey() ? OPEN : [...OPEN, "metrics"]).map(
      (path) => html`<a href=${root + path}>/${path}</a> `,
    )}</p>
  <//>`;
}

function Reload({ model }) {
  const words = texts.about.reload;
  const [state, setState] = useState({ isBusy: false, answer: reloaded, error: null });
  const reload = async () => {
    setState({ isBusy: true, answer: null, error: null });
    try {
      const { id, version } = await json("/model/reload", { method: "POST" });
      reloaded = words.answer(id, version, version === model.version);
      setState({ isBusy: false, answer: reloaded, error: null });
      update({ model: await json("/model") });
    } catch (error) {
      setState({ isBusy: false, answer: null, error });
    }
  };
  return html`<div class="reload">
    <button type="button" onClick=${reload} disabled=${state.isBusy}>${words.button}</button>
    <p class="quiet small">${words.hint}</p>
    <p class="small" role="status">${state.isBusy ? words.busy : state.answer}</p>
    <${Failure} error=${state.error} />
  </div>`;
}

function Settings() {
  const words = texts.about.settings;
  const { list, error } = useSettings();
  const [isOnlyChanged, setOnlyChanged] = useState(false);
  if (!list) return html`<${Failure} error=${error} />`;
  const isChanged = ({ value, default: usual }) => JSON.stringify(value) !== JSON.stringify(usual);
  const changed = list.filter(isChanged);
  const sorted = isOnlyChanged ? changed : [...changed, ...list.filter((each) => !isChanged(each))];
  const shown = (value) => (value === null ? html`<span class="quiet">${words.unset}</span>` : html`<code>${String(value)}</code>`);
  return html`<p>${words.count(changed.length, list.length)}</p>
    <label class="check"><input type="checkbox" checked=${isOnlyChanged}
      onChange=${(event) => setOnlyChanged(event.target.checked)} /> ${words.only}</label>
    <div class="scroll" tabindex="0" role="group" aria-label=${texts.about.sections.settings}>
      <table class="settings">
        <thead><tr><th scope="col">${words.name}</th><th scope="col">${words.value}</th>
          <th scope="col">${words.usual}</th></tr></thead>
        <tbody>${sorted.map((setting) => html`<tr key=${setting.name}>
          <th scope="row"><code>${setting.variable}</code>
            <p class="quiet small">${setting.description}</p></th>
          <td>${shown(setting.value)}${isChanged(setting) &&
            html`<br /><strong class="anomaly">● ${words.changed}</strong>`}</td>
          <td>${shown(setting.default)}</td>
        </tr>`)}</tbody>
      </table>
    </div>`;
}

function Card() {
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
  return html`<${Picture} image=${bitmap} draw=${paintBitmap} caption=${text} />`;
}
