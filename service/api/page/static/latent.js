import { html } from "./ui.js";

export function Latent() {
  return html`<p />`;
}
