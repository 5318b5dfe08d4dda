import { html } from "./ui.js";

export function Watch() {
  return html`<p />`;
}
