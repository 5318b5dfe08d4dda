// An image as a button.

import { html, Picture } from "../shared/ui.js";

export const Tile = ({ image, label, kind = "", ...rest }) => html`<button type="button"
  class=${`tile ${kind}`} title=${label} aria-label=${label} ...${rest}>
  <${Picture} image=${image} label="" /></button>`;
