// The Markdown that model cards are written in, as elements: no HTML of a card ever becomes the page's.

import { html } from "../shared/ui.js";

const INLINE = /`([^`]+)`|\*\*(.+?)\*\*|\*([^*\s](?:[^*]*[^*\s])?)\*|\[([^\]]+)\]\(([^()\s]+)\)/;
const IMAGE = /^!\[([^\]]*)\]\(([^()\s]+)\)$/;
const HEADING = /^(#{1,6}) +(.*)$/;
const ITEM = /^( *)(?:[-*+]|\d+[.)]) +(.*)$/;
const RULE = /^\|?[ :|-]*-[ :|-]*$/;
const isAddress = (text) => /^https?:\/\//.test(text);

/** Text with code, bold, italic and links; of links, those to web pages alone. */
export function inline(text) {
  const found = INLINE.exec(text);
  if (!found) return text.replace(/\\([\\`*_|[\]<>])/g, "$1");
  const [whole, code, bold, italic, label, address] = found;
  const rest = inline(text.slice(found.index + whole.length));
  const before = inline(text.slice(0, found.index));
  if (code) return [before, html`<code>${code}</code>`, rest];
  if (bold) return [before, html`<strong>${inline(bold)}</strong>`, rest];
  if (italic) return [before, html`<em>${inline(italic)}</em>`, rest];
  if (!isAddress(address)) return [before, inline(label), rest];
  return [before, html`<a href=${address} rel="noreferrer">${inline(label)}</a>`, rest];
}

/**
 * Markdown as blocks: `{kind, …}` of the kinds heading (`level`, `text`), paragraph (`text`), image
 * (`text`, `address`), quote (`blocks`), code (`text`), list (`items`, each `{text, list}`) and table
 * (`head`, `rows`, `isNumber`).
 */
export function blocksOf(markdown) {
  const lines = markdown.replaceAll("\r", "").split("\n");
  if (lines[0] === "---") lines.splice(0, lines.indexOf("---", 1) + 1); // front matter
  const blocks = [];
  let i = 0;
  const takeWhile = (isWanted) => {
    const start = i;
    while (i < lines.length && isWanted(lines[i])) i += 1;
    return lines.slice(start, i);
  };
  while (i < lines.length) {
    const line = lines[i];
    const heading = HEADING.exec(line);
    if (!line.trim()) i += 1;
    else if (heading) {
      blocks.push({ kind: "heading", level: heading[1].length, text: heading[2] });
      i += 1;
    } else if (line.startsWith("```")) {
      i += 1;
      blocks.push({ kind: "code", text: takeWhile((each) => !each.startsWith("```")).join("\n") });
      i += 1;
    } else if (line.startsWith(">")) {
      const quoted = takeWhile((each) => each.startsWith(">")).map((each) => each.replace(/^> ?/, ""));
      blocks.push({ kind: "quote", blocks: blocksOf(quoted.join("\n")) });
    } else if (line.includes("|") && RULE.test(lines[i + 1] ?? "")) {
      blocks.push(table(takeWhile((each) => each.includes("|"))));
    } else if (ITEM.test(line)) {
      blocks.push(list(takeWhile((each) => ITEM.test(each) || /^ +\S/.test(each))));
    } else {
      const isText = (each) => each.trim() && !HEADING.test(each) && !/^(>|```)/.test(each);
      const text = takeWhile(isText).join(" ");
      const image = IMAGE.exec(text);
      const last = blocks.at(-1);
      if (image) blocks.push({ kind: "image", text: image[1], address: image[2] });
      // The same words below a picture are its caption, which it has already.
      else if (last?.kind !== "image" || text !== `*${last.text}*`) {
        blocks.push({ kind: "paragraph", text });
      }
    }
  }
  return blocks;
}

function table([head, rule, ...rows]) {
  const cells = (line) =>
    line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
  const isNumber = cells(rule).map((cell) => cell.endsWith(":"));
  return { kind: "table", head: cells(head), rows: rows.map(cells), isNumber };
}

function list(lines) {
  const root = { items: [] };
  const open = [{ indent: -1, list: root }];
  for (const line of lines) {
    const found = ITEM.exec(line);
    if (!found) {
      open.at(-1).list.items.at(-1).text += ` ${line.trim()}`;
      continue;
    }
    const indent = found[1].length;
    while (open.length > 1 && open.at(-1).indent > indent) open.pop();
    if (open.at(-1).indent < indent) {
      const parent = open.at(-1).list.items.at(-1);
      const inner = parent ? (parent.list = { items: [] }) : root;
      open.push({ indent, list: inner });
    }
    open.at(-1).list.items.push({ text: found[2] });
  }
  return { kind: "list", ...root };
}

/**
 * Markdown as elements. `shift` is added to the level of each heading; `Image` shows the image at an
 * address, `{address, text}`. What follows a heading of level 3 is folded under it.
 */
export function Markdown({ text, shift, Image }) {
  const sections = [{ blocks: [] }];
  for (const block of blocksOf(text)) {
    if (block.kind === "heading" && block.level <= 3) {
      sections.push({ blocks: [], heading: block });
      if (block.level === 3) continue;
    }
    sections.at(-1).blocks.push(block);
  }
  const shown = (blocks) => blocks.map((block) => html`<${Block} ...${{ block, shift, Image }} />`);
  return sections.map(({ heading, blocks }) =>
    heading?.level === 3
      ? html`<details><summary><${Block} block=${heading} shift=${shift} /></summary>
          ${shown(blocks)}</details>`
      : shown(blocks),
  );
}

function Block({ block, shift, Image }) {
  const { kind, text } = block;
  if (kind === "heading") {
    const Tag = `h${Math.min(6, block.level + shift)}`;
    return html`<${Tag}>${inline(text)}</${Tag}>`;
  }
  if (kind === "image") return html`<${Image} address=${block.address} text=${text} />`;
  if (kind === "code") return html`<pre class="scroll" tabindex="0">${text}</pre>`;
  if (kind === "list") return html`<${List} items=${block.items} />`;
  if (kind === "table") return html`<${Table} ...${block} />`;
  if (kind === "quote") {
    return html`<blockquote>${block.blocks.map(
      (each) => html`<${Block} ...${{ block: each, shift, Image }} />`,
    )}</blockquote>`;
  }
  return html`<p>${inline(text)}</p>`;
}

function List({ items }) {
  return html`<ul>${items.map(
    (item) => html`<li>${inline(item.text)}${item.list && html`<${List} items=${item.list.items} />`}</li>`,
  )}</ul>`;
}

function Table({ head, rows, isNumber }) {
  const name = (i) => (isNumber[i] ? "number" : "");
  return html`<div class="scroll" tabindex="0" role="group" aria-label=${head.join(", ")}>
    <table>
      <thead><tr>${head.map(
        (cell, i) => html`<th scope="col" class=${name(i)}>${inline(cell)}</th>`,
      )}</tr></thead>
      <tbody>${rows.map(
        (row) => html`<tr>${row.map((cell, i) => html`<td class=${name(i)}>${inline(cell)}</td>`)}</tr>`,
      )}</tbody>
    </table>
  </div>`;
}
