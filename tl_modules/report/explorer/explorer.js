// The page of an exploration. Python holds the state; this file shows it and says what was clicked.
// Texts come from prompts, models and users: they are only ever set as text.

const RUNS = { clean: "unchanged", changed: "changed", control: "control" };
const KINDS = { ablate: "Ablate (to the mean)", scale: "Scale", patch: "Patch from another prompt" };
const SEEN = { activity: "the modules' activity", effect: "the effect on its loss" };
let count = 0;

function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function labelled(text, control, hint = null) {
  control.id = `tlm-x-${(count += 1)}`;
  const label = make("label", { htmlFor: control.id, text });
  const said = hint instanceof Node ? hint : hint && make("span", { className: "quiet", text: hint });
  return make("div", { className: "field" }, make("div", { className: "row" }, label, said), control);
}

function svg(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const signed = (value) => (value === null ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`);
const percent = (value) => value === null ? "–" : (value < 0.0005 ? "<0.1 %" : `${(100 * value).toFixed(1)} %`);
const shownToken = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
const number = (value) => value.toLocaleString("en");
const plural = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;

function isDark() {
  const { jpThemeLight, vscodeThemeKind } = document.body.dataset;
  if (jpThemeLight !== undefined) return jpThemeLight === "false";
  if (vscodeThemeKind !== undefined) return vscodeThemeKind.includes("dark");
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function followTheme(root) {
  const media = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => { root.dataset.theme = isDark() ? "dark" : "light"; };
  const watcher = new MutationObserver(follow);
  watcher.observe(document.body, { attributes: true });
  media.addEventListener("change", follow);
  follow();
  return () => { watcher.disconnect(); media.removeEventListener("change", follow); };
}

function render({ model, el }) {
  const root = make("section", { className: "tlm-x", "aria-label": "Explore modules" });
  root.setAttribute("data-lm-suppress-shortcuts", "true"); // keys here are not JupyterLab's
  root.addEventListener("keydown", (event) => event.stopPropagation()); // nor the notebook's
  const parts = { ...modulesPart(), ...askPart(), ...resultsPart(), ...editPart() };
  let seenBy = "activity";
  let last = {};

  const state = () => model.get("state");
  const view = Math.random().toString(36).slice(2); // several views may show one model
  let sent = 0;
  let waiting = null;
  let refused = null;
  const send = (message) => {
    waiting = `${view} ${(sent += 1)}`;
    root.setAttribute("aria-busy", "true");
    model.send({ ...message, id: waiting });
  };
  const ask = (question) => send({ do: "ask", question });
  const onlyChosen = () => (state().question.chosen.length === 1 ? state().question.chosen[0] : null);

  // Do something only if a part of the state is new: what is being typed or dragged stays.
  function when(key, value, act) {
    const as_text = JSON.stringify(value ?? null);
    if (last[key] === as_text) return;
    last[key] = as_text;
    act();
  }

  // Fill a list anew, and keep the focus on the same item.
  function refill(list, items) {
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const top = list.scrollTop;
    list.replaceChildren(...items);
    list.scrollTop = top;
    if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  function modulesPart() {
    const find = make("input", { type: "search", oninput: () => filter() });
    const list = make("ul", { className: "list" });
    const section = make("section", { className: "modules", "aria-label": "Modules" },
      make("h4", { text: "Modules" }), labelled("Find a module", find), list);
    return { find, findField: section.children[1], list, modules: section };
  }

  function filter() {
    const wanted = parts.find.value.toLowerCase();
    for (const item of parts.list.children) {
      item.hidden = !item.dataset.text.includes(wanted);
    }
  }

  function moduleItem(one, chosen) {
    const said = `${one.label}${one.name ? `: ${one.name}` : ""}`;
    const box = make("input", { type: "checkbox", checked: chosen.includes(one.label),
      "data-key": `choose ${one.label}`, onchange: () => choose() });
    box.value = one.label;
    const pin = make("button", { type: "button", text: one.pinned ? "Pinned" : "Pin",
      "aria-pressed": String(one.pinned), "aria-label": `Pin module ${one.label}`,
      "data-key": `pin ${one.label}`, onclick: () => send({ do: "pin", module: one.label }) });
    const about = [one.verdict, one.category && one.category !== one.name ? one.category : "",
      plural(one.n_units, "unit"), plural(one.n_layers, "layer")].filter(Boolean).join(" · ");
    const item = make("li", {}, make("label", {}, box, make("span", { text: said })), pin,
      make("span", { className: "about", text: about }));
    item.dataset.text = `${said} ${about}`.toLowerCase();
    return item;
  }

  function choose() {
    const boxes = [...parts.list.querySelectorAll("input:checked")];
    ask({ chosen: boxes.map((box) => Number(box.value)) });
  }

  function showModules() {
    const { modules, question } = state();
    const ordered = [...modules].sort((a, b) => b.pinned - a.pinned || a.label - b.label);
    refill(parts.list, ordered.map((one) => moduleItem(one, question.chosen)));
    parts.findField.hidden = modules.length < 8;
    filter();
  }

  function radios(legend, name, choices, onpick) {
    const group = `tlm-x-${(count += 1)}`;
    const labels = Object.entries(choices).map(([value, text]) => {
      const radio = make("input", { type: "radio", name: group, onchange: () => onpick(value) });
      radio.value = value;
      return make("label", {}, radio, make("span", { text }));
    });
    const row = make("div", { className: "row" }, ...labels);
    const field = make("fieldset", {}, make("legend", { text: legend }), row);
    field.dataset.name = name;
    return field;
  }

  const pick = (field, value) => {
    for (const radio of field.querySelectorAll("input")) radio.checked = radio.value === value;
  };

  function askPart() {
    const run = () => ask({ prompt: prompt.value, other_prompt: other.value });
    const onKey = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
    };
    const prompt = make("textarea", { rows: 2, onkeydown: onKey, dir: "auto" });
    const other = make("textarea", { rows: 2, onkeydown: onKey, dir: "auto" });
    const otherField = labelled("Other prompt", other, "of as many tokens; values come from it");
    const kinds = radios("What to do with the chosen modules", "kind", KINDS, (kind) => ask({ kind }));
    const factor = make("input", { type: "range", min: -2, max: 4, step: 0.25,
      oninput: () => sayFactor(), onchange: () => ask({ factor: Number(factor.value) }) });
    const factorSaid = make("span", { className: "quiet" });
    const factorField = labelled("Factor", factor, factorSaid);
    const size = make("input", { type: "range", min: 0, max: 1000, step: 5,
      oninput: () => { exact.value = sizeAt(size.value); drawCurve(); },
      onchange: () => ask({ core_size: sizeAt(size.value) }) });
    const exact = make("input", { type: "number", min: 1, step: 1,
      onchange: () => ask({ core_size: Math.max(1, Math.round(Number(exact.value) || 1)) }) });
    const curve = svg("svg", { class: "curve", viewBox: "0 0 1000 70", preserveAspectRatio: "none",
      role: "img" });
    const sizeSaid = make("span", { className: "quiet" });
    const wide = labelled("Core: the module's first units", size, sizeSaid);
    wide.classList.add("wide");
    wide.insertBefore(curve, size);
    const sizeField = make("div", { className: "row end" }, wide, labelled("Units", exact));
    const length = make("select", { onchange: () => ask({ n_new_tokens: Number(length.value) }) },
      ...[0, 10, 20, 40, 80].map((n) => {
        const option = make("option", { text: n ? `${n} tokens` : "nothing" });
        option.value = n;
        return option;
      }));
    const go = make("button", { type: "button", className: "first", text: "Run", onclick: run });
    const another = make("button", { type: "button", text: "Draw another control",
      onclick: () => ask({ control: state().question.control + 1 }) });
    const stop = make("button", { type: "button", text: "Stop", disabled: true,
      onclick: () => send({ do: "stop" }) });
    const bar = make("progress", { max: 1, value: 0, hidden: true, "aria-label": "Progress" });
    const said = make("span", { role: "status" });
    const error = make("p", { className: "error", role: "alert" });
    const section = make("section", { className: "main", "aria-label": "Question" },
      labelled("Prompt", prompt, "Ctrl+Enter runs it"), kinds, factorField, otherField, sizeField,
      make("div", { className: "row end" }, labelled("Text to write", length), go, another, stop),
      make("div", { className: "status" }, bar, said), error);
    return { prompt, other, otherField, kinds, factor, factorSaid, factorField, size, exact, curve,
      sizeSaid, sizeField, length, stop, bar, said, error, question: section };
  }

  function sayFactor() {
    const value = Number(parts.factor.value);
    const meaning = value === 0 ? "off" : value === 1 ? "as it is" : `${value} times`;
    parts.factorSaid.textContent = `activations: ${meaning}`;
    parts.factor.setAttribute("aria-valuetext", meaning);
  }

  // The slider is logarithmic, as is the curve above it.
  const sizeAt = (place) => Math.round(state().core.n_units ** (place / 1000));
  const placeOf = (n) => (n <= 1 ? 0 : 1000 * Math.log(n) / Math.log(state().core.n_units));

  function drawCurve() {
    const { curve: points, n_units: whole } = state().core;
    parts.size.setAttribute("aria-valuetext", `${parts.exact.value} of ${whole} units`);
    parts.curve.toggleAttribute("hidden", !points);
    parts.curve.style.display = points ? "" : "none";
    if (!points) return;
    const kept = points.filter(([n]) => n <= whole);
    const values = kept.map(([, value]) => value);
    const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
    const y = (value) => 64 - 58 * (value - low) / (high - low || 1);
    const path = kept.map(([n, value], at) => `${at ? "L" : "M"}${placeOf(n)} ${y(value)}`).join("");
    const now = placeOf(Number(parts.exact.value));
    parts.curve.replaceChildren(svg("line", { x1: 0, x2: 1000, y1: y(0), y2: y(0) }),
      svg("path", { d: path }), svg("line", { class: "now", x1: now, x2: now, y1: 0, y2: 70 }));
    const said = kept.map(([n, value]) => `${value.toFixed(2)} at ${n}`).join(", ");
    parts.curve.setAttribute("aria-label", `Selectivity of cores by size: ${said} units`);
  }

  function showCore() {
    const { core } = state();
    parts.sizeField.hidden = !core;
    if (!core) return;
    parts.exact.max = core.n_units;
    parts.exact.value = core.size;
    parts.size.value = placeOf(core.size);
    const curve = core.curve ? " The curve is selectivity over size." : "";
    parts.sizeSaid.textContent = `of ${number(core.n_units)}, ranked by ${core.ranking}.${curve}`;
    drawCurve();
  }

  function showQuestion() {
    const { question } = state();
    when("prompt", question.prompt, () => { parts.prompt.value = question.prompt; });
    when("other", question.other_prompt, () => { parts.other.value = question.other_prompt; });
    when("kind", question.kind, () => pick(parts.kinds, question.kind));
    when("factor", question.factor, () => { parts.factor.value = question.factor; sayFactor(); });
    when("length", question.n_new_tokens, () => { parts.length.value = question.n_new_tokens; });
    parts.factorField.hidden = question.kind !== "scale";
    parts.otherField.hidden = question.kind !== "patch";
    when("core", state().core, showCore);
  }

  function resultsPart() {
    const note = make("p", { className: "note" });
    const asked = make("p", { className: "asked" });
    const headline = make("p", { className: "headline" });
    const seen = radios("Colour each token by", "seen", SEEN, (value) => { seenBy = value; showTokens(); });
    const tokens = make("p", { className: "tokens", tabIndex: 0, role: "group", dir: "auto",
      "aria-label": "The prompt's tokens, coloured" });
    const legend = make("p", { className: "quiet" });
    const values = make("tbody");
    const numbers = make("details", {}, make("summary", { text: "Numbers of each token" }),
      make("div", { className: "scroll", tabIndex: 0, role: "group", "aria-label": "Numbers of each token" },
        table(null, ["token", "activity", "effect on its loss", "control's effect"], values)));
    const next = make("tbody");
    const nextTable = table("Next token", ["token", ...Object.values(RUNS)], next);
    const losses = make("tbody");
    const lossTable = table("Loss, nats per token", ["model", "loss", "change"], losses, "losses");
    const texts = make("div", { className: "texts" });
    const written = make("div", {}, make("h4", { text: "What the model writes" }), texts);
    const results = make("section", { className: "results", "aria-label": "Results" }, note, asked, headline,
      make("div", { className: "two" }, lossTable, nextTable),
      make("div", {}, seen, tokens, legend, numbers), written);
    return { note, asked, headline, seen, tokens, legend, values, next, losses, texts, written, results };
  }

  function table(caption, names, body, className = "") {
    const cells = names.map((name, at) => {
      const run = Object.keys(RUNS).find((key) => RUNS[key] === name);
      const key = run ? make("span", { className: `key ${run}` }) : null;
      const cell = make("th", { scope: "col" }, ...(key ? [key] : []));
      cell.append(name);
      return cell;
    });
    const head = make("thead", {}, make("tr", {}, ...cells));
    return make("table", { className }, ...(caption ? [make("caption", { text: caption })] : []), head, body);
  }

  function showResults() {
    const { outcome } = state();
    parts.results.hidden = !outcome;
    if (!outcome) return;
    parts.note.textContent = outcome.note;
    parts.note.hidden = !outcome.note;
    parts.asked.textContent = outcome.asked;
    const changes = Object.fromEntries(outcome.losses.map((row) => [row.run, row.change]));
    const n = plural(outcome.n_units, "unit");
    parts.headline.textContent = outcome.n_units === 0 ? "No module is chosen: nothing is changed."
      : changes.changed === null ? `${n} changed. A prompt of one token has no loss.`
        : `Changing ${n} moves the loss by ${signed(changes.changed)} nats per token; ` +
          `as many random units of the same layers by ${signed(changes.control)}.`;
    showLosses(outcome.losses);
    showNext(outcome.next_tokens);
    showTokens();
    parts.written.hidden = !outcome.texts.length;
    parts.texts.replaceChildren(...outcome.texts.map(({ run, text }) =>
      make("div", {}, make("span", { className: `key ${run}` }), make("b", { text: RUNS[run] }),
        make("p", { text, dir: "auto" }))));
  }

  function barred(text, run, share) {
    const bar = make("span", { className: `bar ${run}` });
    bar.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
    return make("td", {}, make("span", { text }), bar);
  }

  function showLosses(rows) {
    const most = Math.max(1e-9, ...rows.map((row) => Math.abs(row.change ?? 0)));
    parts.losses.replaceChildren(...rows.map(({ run, loss, change }) => make("tr", {},
      make("th", { scope: "row" }, make("span", { className: `key ${run}` }), RUNS[run]),
      make("td", { text: loss === null ? "–" : loss.toFixed(3) }),
      run === "clean" ? make("td", { text: "" }) : barred(signed(change), run, Math.abs(change ?? 0) / most))));
  }

  function showNext(rows) {
    const most = Math.max(1e-9, ...rows.flatMap((row) => Object.keys(RUNS).map((run) => row[run])));
    parts.next.replaceChildren(...rows.map((row) => make("tr", {},
      make("th", { scope: "row", text: shownToken(row.token), title: row.token }),
      ...Object.keys(RUNS).map((run) => barred(percent(row[run]), run, row[run] / most)))));
  }

  function shade(token, strongest) {
    if (token.special || token[seenBy] === null) return [0, "warm"];
    const value = seenBy === "activity" ? Math.max(0, token.activity - 1) : token.effect;
    return [Math.min(1, Math.abs(value) / strongest) * 0.5, value < 0 ? "cold" : "warm"];
  }

  function showTokens() {
    const { outcome } = state();
    if (!outcome) return;
    pick(parts.seen, seenBy);
    const sizes = outcome.tokens.filter((token) => !token.special && token[seenBy] !== null)
      .map((token) => (seenBy === "activity" ? token.activity - 1 : Math.abs(token.effect)));
    const strongest = Math.max(1e-9, ...sizes);
    parts.tokens.replaceChildren(...outcome.tokens.map((token) => {
      const [alpha, colour] = shade(token, strongest);
      const said = seenBy === "activity" ? (token.activity ?? 0).toFixed(2) : signed(token.effect);
      const span = make("span", { text: token.token, title: token[seenBy] === null ? "" : said });
      if (alpha >= 0.02) span.style.background = `rgba(var(--${colour}), ${alpha.toFixed(3)})`;
      return span;
    }));
    parts.legend.textContent = !sizes.length ? "Not known for these modules or this prompt."
      : seenBy === "activity" && strongest <= 1e-9 ? "No token is above 1, the modules' average."
      : seenBy === "activity"
        ? `Colour begins at 1, the modules' average; full at ${(1 + strongest).toFixed(1)} times it. First and special tokens are not coloured.`
        : `Orange: the token's loss rises; blue: it falls. Full colour at ${strongest.toFixed(2)} nats.`;
    const cell = (value, act) => make("td", { text: value === null ? "–" : act(value) });
    parts.values.replaceChildren(...outcome.tokens.map((token) => make("tr", {},
      make("th", { scope: "row", text: shownToken(token.token) }),
      cell(token.activity, (value) => value.toFixed(2)), cell(token.effect, signed), cell(token.control, signed))));
  }

  function editPart() {
    const name = make("input", { type: "text", maxLength: 200, onkeydown: (event) => {
      if (event.key === "Enter") { event.preventDefault(); rename.click(); }
    } });
    const rename = make("button", { type: "button", text: "Rename",
      onclick: () => send({ do: "rename", module: onlyChosen(), name: name.value }) });
    const merge = make("button", { type: "button", text: "Merge the chosen modules",
      onclick: () => send({ do: "merge", modules: state().question.chosen }) });
    const how = make("select", { onchange: () => sayEdits() },
      ...[["n", "its first units"], ["layer", "its units up to layer"]].map(([value, text]) => {
        const option = make("option", { text });
        option.value = value;
        return option;
      }));
    const at = make("input", { type: "number", min: 0, step: 1, value: 1 });
    const split = make("button", { type: "button", text: "Split",
      onclick: () => send({ do: "split", module: onlyChosen(), [how.value]: Math.round(Number(at.value)) }) });
    const keep = make("button", { type: "button", text: "Keep only the core",
      onclick: () => send({ do: "keep_core", module: onlyChosen(), n: state().core.size }) });
    const listed = make("select", { multiple: true, size: 6 });
    const typed = make("input", { type: "text", placeholder: "12:345, 3:17" });
    const to = make("select");
    const move = make("button", { type: "button", text: "Move", onclick: () => {
      const chosen = [...listed.selectedOptions].map((option) => Number(option.value));
      send({ do: "move", listed: chosen, typed: typed.value, to: to.value === "" ? null : Number(to.value) });
      typed.value = "";
    } });
    const undo = make("button", { type: "button", text: "Undo", onclick: () => send({ do: "undo" }) });
    const history = make("ol");
    const none = make("p", { className: "quiet", text: "No edits yet." });
    const one = make("p", { className: "quiet" });
    const edits = make("details", {}, make("summary", { text: "Edit the modules" }), one,
      make("div", { className: "edits" },
        make("div", {}, make("h4", { text: "Name" }), labelled("New name", name), make("div", {}, rename)),
        make("div", {}, make("h4", { text: "Merge and split" }), make("div", {}, merge),
          make("div", { className: "row end short" }, labelled("It keeps", how), labelled("Number", at), split),
          make("div", {}, keep)),
        make("div", {}, make("h4", { text: "Move units" }),
          labelled("Its first units (several with Ctrl or Shift)", listed), labelled("Other units, layer:unit", typed),
          make("div", { className: "row end short" }, labelled("To module", to), move)),
        make("div", {}, make("h4", { text: "Steps" }), none, history, make("div", {}, undo),
          make("p", { className: "quiet", text: "In Python: explorer.modules is the edited set, explorer.history the steps." }))));
    return { name, rename, merge, split, keep, how, at, listed, to, move, undo, history, none, one, edits };
  }

  function sayEdits() {
    const { core, question, modules } = state();
    const single = question.chosen.length === 1;
    const named = single ? modules[question.chosen[0]] : null;
    parts.one.textContent = named ? `Chosen: module ${named.label}${named.name ? ` (${named.name})` : ""}.`
      : "Renaming, splitting and listing units need one chosen module, merging several.";
    for (const part of [parts.rename, parts.split, parts.name]) part.disabled = !single;
    parts.merge.disabled = question.chosen.length < 2;
    const smaller = Boolean(core) && core.size < core.n_units;
    parts.keep.disabled = !smaller;
    parts.keep.textContent = smaller ? `Keep only its first ${plural(core.size, "unit")}` : "Keep only the core";
  }

  function showEdits() {
    const { core, modules, history, question } = state();
    sayEdits();
    when("name", [question.chosen, modules.map((one) => one.name)], () => {
      const single = onlyChosen();
      parts.name.value = single === null ? "" : modules[single].name;
    });
    when("units", core?.units ?? [], () => {
      parts.listed.replaceChildren(...(core?.units ?? []).map((unit) => {
        const option = make("option", { text: `layer ${unit.layer}, unit ${unit.unit}` });
        option.value = unit.at;
        return option;
      }));
    });
    when("places", modules.map((one) => [one.label, one.name]), () => {
      const kept = parts.to.value;
      const options = [...modules.map((one) => [one.label, `${one.label}${one.name ? `: ${one.name}` : ""}`]), ["", "none"]];
      parts.to.replaceChildren(...options.map(([value, text]) => {
        const option = make("option", { text });
        option.value = value;
        return option;
      }));
      if (kept && options.some(([value]) => String(value) === kept)) parts.to.value = kept;
    });
    when("history", history, () => parts.history.replaceChildren(...history.map((text) => make("li", { text }))));
    parts.none.hidden = history.length > 0;
    parts.undo.disabled = !state().can_undo;
  }

  const title = make("h3");
  const sentence = make("p", { className: "sentence" });
  function show() {
    if (waiting !== null) return; // older than what was clicked last
    const now = state();
    title.textContent = now.title;
    sentence.textContent = now.sentence;
    sentence.hidden = !now.sentence;
    when("modules", [now.modules, now.question.chosen], showModules);
    showQuestion();
    when("outcome", now.outcome, showResults);
    markOld();
    showEdits();
  }

  // Numbers that do not answer what is chosen now, or not yet.
  function markOld() {
    const { outcome } = state();
    parts.results.classList.toggle("old", model.get("status").total > 0 || outcome?.is_current === false);
  }

  function showStatus() {
    const { answered, done, total, said, error } = model.get("status");
    const busy = total > 0;
    if (answered === waiting) {
      waiting = null;
      show();
    }
    root.setAttribute("aria-busy", String(busy || waiting !== null));
    const inside = document.activeElement === parts.stop;
    parts.bar.hidden = !busy;
    parts.bar.max = total || 1;
    parts.bar.value = done;
    parts.stop.disabled = !busy;
    if (inside && !busy) parts.prompt.focus(); // a disabled button would lose the focus
    parts.said.textContent = busy && done < total ? `${done + 1} of ${total}: ${said}` : said;
    parts.error.textContent = error;
    parts.error.hidden = !error;
    markOld();
    if (error && refused !== `${answered} ${error}`) { // it is shown as it was before, once
      refused = `${answered} ${error}`;
      const { prompt, other, name } = last;
      last = { prompt, other, name };
      show();
    }
  }

  root.append(title, sentence, make("div", { className: "grid" }, parts.modules,
    make("div", { className: "main" }, parts.question, parts.results)), parts.edits);
  const unfollow = followTheme(root);
  model.on("change:state", show);
  model.on("change:status", showStatus);
  show();
  showStatus();
  el.append(root);
  return () => {
    unfollow();
    model.off("change:state", show);
    model.off("change:status", showStatus);
  };
}

export default { render };
