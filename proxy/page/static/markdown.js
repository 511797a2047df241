// The common parts of Markdown, as described elements: what a model writes never becomes HTML.

import { h } from "./dom.js";

const INLINE = /(`+)(.+?)\1|\*\*(.+?)\*\*|(?<![\w*])\*([^*\s][^*\n]*?)\*(?![\w*])/gs;
const ITEM = /^\s*(?:[-*+]|(\d+)[.)])\s+/;

/** @param {string} text @returns {Child[]} */
function inline(text) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    parts.push(text.slice(at, found.index));
    if (found[2] !== undefined) parts.push(h("code", found[2]));
    else if (found[3] !== undefined) parts.push(h("strong", inline(found[3])));
    else parts.push(h("em", found[4]));
    at = found.index + found[0].length;
  }
  return [...parts, text.slice(at)];
}

/** Cut a text into blocks: code between fences, and what is between empty lines. @param {string} text */
function blocks(text) {
  /** @type {string[]} */
  const found = [];
  /** @type {string[]} */
  let block = [];
  let fence = "";
  const end = () => {
    if (block.length) found.push(block.join("\n"));
    block = [];
  };
  for (const line of text.split("\n")) {
    const mark = line.match(/^\s*(```+|~~~+)/)?.[1];
    if (fence) {
      block.push(line);
      if (mark?.startsWith(fence)) {
        fence = "";
        end();
      }
    } else if (mark) {
      end();
      fence = mark;
      block.push(line);
    } else if (line.trim() === "") end();
    else block.push(line);
  }
  end();
  return found;
}

/** @param {string} block @returns {Child} */
function draw(block) {
  const lines = block.split("\n");
  const fence = block.match(/^\s*(```+|~~~+)\s*(\S*)/);
  if (fence) {
    const closed = lines.length > 1 && lines.at(-1)?.trim().startsWith(fence[1]);
    return h("pre", { tabindex: 0, "aria-label": fence[2] || "code" }, h("code", lines.slice(1, closed ? -1 : undefined).join("\n")));
  }
  const heading = lines.length === 1 && block.match(/^#{1,6}\s+(.*)/);
  if (heading) return h("h3", inline(heading[1]));
  if (ITEM.test(lines[0])) {
    /** @type {string[]} */
    const items = [];
    for (const line of lines) {
      if (ITEM.test(line)) items.push(line.replace(ITEM, ""));
      else items[items.length - 1] += `\n${line.trim()}`;
    }
    const first = lines[0].match(ITEM)?.[1];
    return h(first ? "ol" : "ul", first ? { start: first } : null, items.map((item) => h("li", inline(item))));
  }
  return h("p", inline(block));
}

/**
 * Draw a text that grows: blocks that are as before are not drawn again.
 * @param {string} text
 * @param {Map<string, Child>} before the blocks of the last time; changed
 * @returns {Child[]}
 */
export function markdown(text, before) {
  const found = blocks(text).map((block) => /** @type {const} */ ([block, before.get(block) ?? draw(block)]));
  before.clear();
  for (const [block, child] of found) before.set(block, child);
  return found.map(([, child]) => child);
}
