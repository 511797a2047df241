// Chat: with one model, or the same question to two side by side. Nothing leaves the browser but the requests.

import { Conversation } from "../conversation.js";
import { h, View } from "../dom.js";
import { count, rate, seconds } from "../format.js";
import { json } from "../gateway.js";
import { live, onChange } from "../live.js";
import { markdown } from "../markdown.js";
import { dialog, icon, input, named, say, select, state, trouble, valued } from "../parts.js";

const MOST_IMAGE = 20 << 20;

/** What stays when one looks at another view; it is lost with the tab. */
const kept = {
  sides: [new Conversation("")],
  text: "",
  /** @type {string[]} */
  images: [],
  options: { system: "", temperature: "", most: "", tools: "" },
};

class ChatView extends View {
  /** @type {any[]} */
  models = [];
  /** @type {{name: string, description: string}[]} */
  agents = [];
  isListed = false;
  chosen = 0;
  isFollowing = true;

  enter() {
    this.classList.add("fills");
    this.leaving.push(
      onChange("model", () => this.update()),
      onChange("config", () => this.ask()),
      onChange("connection", (error) => !error && this.failed && this.ask()),
    );
    this.ask();
  }

  ask() {
    this.attempt(async () => {
      const { data } = await json("v1/models");
      this.isListed = true;
      this.models = data.filter((/** @type {any} */ model) => !/embed|rerank/.test((model.capabilities ?? []).join()));
      const wanted = named();
      const names = this.models.map((model) => model.id);
      if (wanted && names.includes(wanted)) kept.sides[0].model = wanted;
      for (const side of kept.sides) if (!names.includes(side.model)) side.model = this.first(names);
    });
    json("v1/agents").then(
      ({ data }) => (this.agents = data),
      () => {}, // a gateway without agents offers none
    );
  }

  /** The model to begin with: one that is loaded. @param {string[]} names */
  first(names) {
    return names.find((name) => live.models.get(name)?.state === "ready") ?? names[0] ?? "";
  }

  get isRunning() {
    return kept.sides.some((side) => side.running);
  }

  draw() {
    return [
      h(
        "div.bar-of-fields",
        h("h1", "Chat"),
        h(
          "div.buttons.spring",
          h("button", { "aria-pressed": String(kept.sides.length > 1), onclick: () => this.compare() }, "Compare two"),
          h("button", { disabled: !kept.sides[0].turns.length, onclick: () => this.restart() }, "New chat"),
        ),
      ),
      trouble(this.failed, "The models cannot be listed"),
      h(
        "div.talk",
        kept.sides.map((side, nth) => this.side(side, nth)),
      ),
      this.composer(),
    ];
  }

  /** @param {Conversation} side @param {number} nth */
  side(side, nth) {
    const known = live.models.get(side.model);
    const label = kept.sides.length > 1 ? `Model ${nth + 1}` : "Model";
    return h(
      "section.side",
      { key: nth },
      h(
        "header",
        select(
          label,
          side.model,
          this.models.map((model) => model.id),
          (name) => ((side.model = name), this.update()),
        ),
        known && state(known),
      ),
      h(
        "div.turns",
        { tabindex: 0, role: "log", "aria-label": `Conversation with ${side.model}`, onscroll: (/** @type {any} */ event) => this.scrolled(event.target) },
        side.turns.length ? h("ol", side.turns.map((turn) => drawTurn(turn))) : this.welcome(side),
      ),
    );
  }

  /** @param {Conversation} side */
  welcome(side) {
    const model = live.models.get(side.model);
    if (!side.model && !this.failed) return h("div.welcome", h("p.hint", this.isListed ? "There is no model." : "Asking the gateway …"));
    const text = !model
      ? "Choose a model and ask it something."
      : model.state === "ready"
        ? `${side.model} is loaded and answers at once.`
        : `${side.model} is loaded by your first message.`;
    const offer = (/** @type {string} */ words) => h("button", { onclick: () => this.send(words) }, words);
    const isDemo = /^demo/.test(side.model);
    return h(
      "div.welcome",
      h("h2", "Talk to a model"),
      h("p", text),
      h("div.buttons", offer(isDemo ? "What about docker?" : "What can you do?"), offer("Tell me a story"), isDemo && offer("forever")),
      h("p.hint", "The conversation stays in this tab."),
    );
  }

  composer() {
    const offers = this.offers();
    return h(
      "form.composer",
      {
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          if (!this.isRunning) this.send(kept.text);
        },
      },
      offers.length > 0 &&
        h(
          "ul.offers",
          { id: "offers", role: "listbox", "aria-label": "Agents" },
          offers.map((agent, nth) =>
            h(
              "li",
              { key: agent.name, id: `offer-${nth}`, role: "option", "aria-selected": String(nth === this.chosen), onclick: () => this.choose(agent.name) },
              h("b", `/${agent.name}`),
              h("span.hint", agent.description),
            ),
          ),
        ),
      kept.images.length > 0 &&
        h(
          "div.thumbs",
          kept.images.map((url, nth) =>
            h("button.quiet", { key: nth, type: "button", "aria-label": `Remove image ${nth + 1}`, onclick: () => (kept.images.splice(nth, 1), this.update()) }, h("img", { src: url, alt: "" })),
          ),
        ),
      h("textarea", {
        rows: 1,
        "aria-label": "Message",
        placeholder: this.agents.length ? "Ask something, or / for an agent" : "Ask something",
        value: kept.text,
        "aria-autocomplete": "list",
        "aria-controls": offers.length ? "offers" : null,
        "aria-activedescendant": offers.length ? `offer-${this.chosen}` : null,
        oninput: valued((value) => ((kept.text = value), (this.chosen = 0), this.update())),
        onkeydown: (/** @type {KeyboardEvent} */ event) => this.pressed(event, offers),
        onpaste: (/** @type {ClipboardEvent} */ event) => this.takesImages && this.attach([...(event.clipboardData?.files ?? [])]),
      }),
      h(
        "div.buttons",
        h(
          "div.buttons",
          this.takesImages && h("label.button.quiet", { title: "Add an image" }, icon("image"), h("input", { type: "file", accept: "image/*", multiple: true, hidden: true, "aria-label": "Add an image", onchange: (/** @type {any} */ event) => this.attach([...event.target.files]) })),
          h("button.small", { type: "button", onclick: () => this.askOptions() }, "Options"),
        ),
        this.isRunning
          ? h("button", { type: "button", key: "stop", onclick: () => kept.sides.forEach((side) => side.stop()) }, icon("stop"), "Stop")
          : h("button.main", { type: "submit", key: "send", disabled: (!kept.text.trim() && !kept.images.length) || !kept.sides[0].model }, icon("send"), "Send"),
      ),
    );
  }

  askOptions() {
    const { options } = kept;
    const area = (/** @type {"system" | "tools"} */ name, /** @type {string} */ label, /** @type {Props} */ props) =>
      h("label.field", h("span", label), h("textarea", { rows: 4, value: options[name], oninput: valued((value) => (options[name] = value)), ...props }));
    dialog("Options", (close) =>
      h(
        "div.stack",
        area("system", "System prompt", { placeholder: "none" }),
        h(
          "div.options",
          input("Temperature", options.temperature, (value) => (options.temperature = value), { type: "number", min: 0, max: 2, step: 0.1, placeholder: "the model's" }),
          input("Most tokens", options.most, (value) => (options.most = value), { type: "number", min: 1, step: 1, placeholder: "no limit" }),
        ),
        area("tools", "Tools, as JSON of OpenAI's API", { class: "mono", placeholder: "none" }),
        h("div.buttons", h("button.main", { onclick: close }, "Done")),
      ),
    );
  }

  /** Whether all models that are asked take images. */
  get takesImages() {
    return kept.sides.every((side) => {
      const entry = this.models.find((model) => model.id === side.model) ?? {};
      const told = [entry.capabilities, entry.modalities, entry.architecture?.input_modalities, live.models.get(side.model)?.capabilities];
      return /vision|image/.test(JSON.stringify(told));
    });
  }

  /** The agents that the text may mean. */
  offers() {
    const begun = kept.text.match(/^\/(\w*)$/)?.[1];
    return begun === undefined ? [] : this.agents.filter((agent) => agent.name.startsWith(begun));
  }

  /** @param {string} name */
  choose(name) {
    kept.text = `/${name} `;
    this.now();
    this.querySelector("textarea")?.focus();
  }

  /** @param {KeyboardEvent} event @param {{name: string}[]} offers */
  pressed(event, offers) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (offers.length && step) this.chosen = (this.chosen + step + offers.length) % offers.length;
    else if (offers.length && (event.key === "Tab" || event.key === "Enter")) this.choose(offers[this.chosen].name);
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) /** @type {HTMLTextAreaElement} */ (event.target).form?.requestSubmit();
    else return;
    event.preventDefault();
    this.update();
  }

  /** @param {File[]} files */
  async attach(files) {
    for (const file of files.filter((one) => one.type.startsWith("image/"))) {
      if (file.size > MOST_IMAGE) {
        say(`${file.name} is larger than 20 MiB.`, true);
        continue;
      }
      const reader = new FileReader();
      reader.readAsDataURL(file);
      await new Promise((resolve) => (reader.onloadend = resolve));
      if (typeof reader.result === "string") kept.images.push(reader.result);
    }
    this.update();
  }

  compare() {
    if (kept.sides.length > 1) kept.sides.pop()?.stop();
    else kept.sides.push(new Conversation(this.models.map((model) => model.id).find((name) => name !== kept.sides[0].model) ?? kept.sides[0].model));
    this.update();
  }

  restart() {
    for (const side of kept.sides) {
      side.stop();
      side.turns = [];
    }
    this.update();
  }

  /** @param {string} text */
  send(text) {
    const asked = text.trim();
    if ((!asked && !kept.images.length) || !kept.sides[0].model) return;
    const images = kept.images;
    kept.text = "";
    kept.images = [];
    this.isFollowing = true;
    for (const side of kept.sides) side.ask(asked, images, kept.options, () => this.update());
    this.update();
  }

  /** @param {Element} box */
  scrolled(box) {
    this.isFollowing = box.scrollTop + box.clientHeight > box.scrollHeight - 60;
  }

  now() {
    super.now();
    if (this.isFollowing && this.isRunning) for (const box of this.querySelectorAll(".turns")) box.scrollTop = box.scrollHeight;
  }
}
customElements.define("view-chat", ChatView);

/** @param {Turn} turn */
function drawTurn(turn) {
  const images = turn.images.map((url) => h("img", { src: url, alt: "sent image" }));
  if (turn.role === "user") return h("li.turn.user", images, turn.text && h("div", turn.text));
  const going = turn.state === "waiting" || turn.state === "thinking" || turn.state === "answering";
  return h(
    "li.turn.assistant",
    turn.thought &&
      h("details.thought", h("summary", turn.state === "thinking" ? "Thinking …" : "Thoughts"), h("p", turn.thought)),
    turn.text && h("div.text", markdown(turn.text, turn.blocks)),
    turn.calls.map((call) => h("div.call", h("b", `calls ${call.name}`), h("pre", { tabindex: 0, "aria-label": `Arguments of ${call.name}` }, pretty(call.text)))),
    going && h("p.hint.cursor", turn.state === "waiting" ? turn.comment || "Waiting for the model" : ""),
    turn.error && h("p.problem", { role: "alert" }, turn.error.message),
    !going && h("p.facts", facts(turn)),
  );
}

/** @param {Turn} turn */
function facts(turn) {
  return [
    turn.state === "stopped" && "stopped",
    turn.answered !== null && `${count(turn.answered)} tokens`,
    turn.speed !== null && `${rate(turn.speed)} tokens/s`,
    turn.first !== null && `first after ${seconds(turn.first)}`,
    turn.asked !== null && `prompt of ${count(turn.asked)}`,
  ]
    .filter(Boolean)
    .map((fact) => h("span", fact));
}

/** @param {string} text */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
