import { html } from "./ui.js";

export function Look() {
  return html`<p />`;
}
