// Draws: a description of elements is compared with what is there, and only the difference is changed. So focus, scroll
// position and selection stay. Text only ever becomes text nodes: nothing that a model says can become HTML.

const SVG = "http://www.w3.org/2000/svg";

/** A described element. */
export class Described {
  /** @param {string} tag @param {Props} props @param {Child[]} children */
  constructor(tag, props, children) {
    this.tag = tag;
    this.props = props;
    this.children = children;
  }
}

/**
 * Describe an element: `h("div.card", {onclick}, "text", ...)`.
 * Props that are functions or in `PROPERTIES` are set as properties, `style` by the CSSOM, all others as attributes.
 * `key` tells elements of a list apart.
 * @param {string} name a tag with classes
 * @param {Props | Child} [props]
 * @param {...Child} children
 * @returns {Described}
 */
export function h(name, props, ...children) {
  const [tag, ...classes] = name.split(".");
  const isProps = props !== null && typeof props === "object" && !(props instanceof Described) && !Array.isArray(props);
  /** @type {Props} */
  const all = isProps ? { .../** @type {Props} */ (props) } : {};
  if (classes.length) all.class = [...classes, all.class].filter(Boolean).join(" ");
  return new Described(tag, all, isProps ? children : [/** @type {Child} */ (props), ...children]);
}

const PROPERTIES = new Set(["value", "checked", "open", "disabled", "selected", "scrollTop", "indeterminate"]);

/** What each element was last drawn from. @type {WeakMap<Element, Described>} */
const drawn = new WeakMap();

/**
 * Make an element's children those that are described.
 * @param {Element} parent
 * @param {Child | Child[]} children
 */
export function render(parent, children) {
  const wanted = flat([children]);
  /** @type {Map<string, ChildNode>} */
  const keyed = new Map();
  /** @type {ChildNode[]} */
  const others = [];
  for (const node of parent.childNodes) {
    const key = node instanceof Element ? drawn.get(node)?.props.key : undefined;
    if (key === undefined || keyed.has(String(key))) others.push(node);
    else keyed.set(String(key), node);
  }
  let next = parent.firstChild;
  for (const child of wanted) {
    const node = matching(child, keyed, others) ?? make(child, parent);
    if (child instanceof Described) patch(/** @type {Element} */ (node), child);
    else if (node.nodeValue !== child) node.nodeValue = child;
    if (node === next) next = node.nextSibling;
    else parent.insertBefore(node, next);
  }
  for (const node of [...keyed.values(), ...others]) node.remove();
}

/**
 * Find the node that becomes this child, and take it out of those that are left.
 * @param {Described | string} child
 * @param {Map<string, ChildNode>} keyed
 * @param {ChildNode[]} others
 */
function matching(child, keyed, others) {
  if (!(child instanceof Described)) {
    if (others[0]?.nodeType === Node.TEXT_NODE) return others.shift();
    return undefined;
  }
  if (child.props.key !== undefined) {
    const key = String(child.props.key);
    const node = keyed.get(key);
    if (!node || drawn.get(/** @type {Element} */ (node))?.tag !== child.tag) return undefined;
    keyed.delete(key);
    return node;
  }
  const nth = others.findIndex((node) => node instanceof Element && drawn.get(node)?.tag === child.tag);
  return nth < 0 ? undefined : others.splice(nth, 1)[0];
}

/** @param {Described | string} child @param {Element} parent @returns {ChildNode} */
function make(child, parent) {
  if (!(child instanceof Described)) return document.createTextNode(child);
  const isSvg = child.tag === "svg" || (parent.namespaceURI === SVG && parent.tagName !== "foreignObject");
  return isSvg ? document.createElementNS(SVG, child.tag) : document.createElement(child.tag);
}

/** @param {Element} element @param {Described} wanted */
function patch(element, wanted) {
  const before = drawn.get(element);
  if (before === wanted) return;
  drawn.set(element, wanted);
  const old = before?.props ?? {};
  for (const name of Object.keys(old)) if (!(name in wanted.props)) set(element, name, undefined, old[name]);
  // A select has a value only once it has its options.
  if (wanted.children.length || before?.children.length) render(element, wanted.children);
  for (const [name, value] of Object.entries(wanted.props)) {
    // What was typed since is known to the element alone.
    if (value !== old[name] || name === "value") set(element, name, value, old[name]);
  }
  if (!before) wanted.props.ref?.(element);
}

/** @param {any} element @param {string} name @param {any} value @param {any} before */
function set(element, name, value, before) {
  if (name === "key" || name === "ref") return;
  if (name === "style") {
    for (const [property, one] of Object.entries(value ?? {})) element.style.setProperty(property, one);
  } else if (typeof value === "function" || typeof before === "function" || PROPERTIES.has(name)) {
    if (element[name] !== value) element[name] = value ?? (PROPERTIES.has(name) ? "" : null);
  } else if (typeof value === "object" && value !== null) {
    element[name] = value;
  } else if (value === undefined || value === null || value === false) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : String(value));
}

/** @param {Child[]} children @returns {(Described | string)[]} */
function flat(children) {
  const found = [];
  for (const child of /** @type {any[]} */ (children).flat(Infinity)) {
    if (child instanceof Described) found.push(child);
    else if (child !== null && child !== undefined && child !== false && child !== "") found.push(String(child));
  }
  return found;
}

/** A part of the page that draws itself: `draw` describes it, `update` draws it with the next frame. */
export class View extends HTMLElement {
  #due = 0;
  /** What to call when the view goes. @type {(() => void)[]} */
  leaving = [];

  connectedCallback() {
    this.enter();
    this.now();
  }

  disconnectedCallback() {
    cancelAnimationFrame(this.#due);
    this.#due = 0;
    for (const leave of this.leaving.splice(0)) leave();
  }

  /** Begin: subscribe, and push onto `leaving` what ends it. */
  enter() {}

  /** @returns {Child | Child[]} */
  draw() {
    return [];
  }

  /** Draw with the next frame, once. A hidden page has no frames, and costs nothing. */
  update() {
    this.#due ||= requestAnimationFrame(() => this.now());
  }

  now() {
    this.#due = 0;
    render(this, this.draw());
  }

  /**
   * Call again and again while the view is there and can be seen.
   * @param {number} seconds
   * @param {() => void} action
   */
  every(seconds, action) {
    const timer = setInterval(() => document.hidden || action(), seconds * 1000);
    this.leaving.push(() => clearInterval(timer));
  }

  /** Do not wait for an answer: a failure is shown by the view. @param {() => Promise<void>} work */
  async attempt(work) {
    try {
      await work();
      this.failed = undefined;
    } catch (error) {
      this.failed = error;
    }
    this.update();
  }

  /** @type {Error | undefined} */
  failed;
}
