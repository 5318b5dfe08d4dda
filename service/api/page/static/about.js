import { html } from "./ui.js";

export function About() {
  return html`<p />`;
}
