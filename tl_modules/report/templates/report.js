"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const input = byId("search"), found = byId("found");
  const cards = [...document.querySelectorAll("article.card")];
  const texts = cards.map((card) => card.textContent.toLowerCase());
  const rows = [...document.querySelectorAll("tr[data-module]")];

  // Prompts are rows of [module, category, score, text], only ever inserted as text, never as HTML.
  const prompts = JSON.parse(byId("prompt-data").textContent);
  const list = byId("prompt-list"), which = byId("which"), more = byId("more");
  const STEP = 50;
  let matches = [], shown = 0;

  // bdi keeps right-to-left text from reordering the text around it.
  function apart(text) {
    const element = document.createElement("bdi");
    element.textContent = text;
    return element;
  }

  function show() {
    for (const [module, category, score, text] of matches.slice(shown, shown + STEP)) {
      const item = document.createElement("li"), link = document.createElement("a");
      link.href = `#module-${module}`;
      link.textContent = `Module ${module}`;
      const note = document.createElement("span");
      note.className = "quiet";
      note.append(" ", apart(category), ` ${score === null ? "–" : score.toFixed(2)}\n`);
      item.append(link, note, apart(text));
      list.append(item);
    }
    shown = Math.min(shown + STEP, matches.length);
    more.hidden = shown >= matches.length;
  }

  function search() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = (text) => words.every((word) => text.includes(word));
    const kept = new Set();
    cards.forEach((card, at) => {
      card.hidden = !matching(texts[at]);
      if (!card.hidden) kept.add(card.dataset.module);
    });
    for (const row of rows) row.hidden = !kept.has(row.dataset.module);
    matches = prompts.filter(([module, category, , text]) =>
      (which.value === "" || which.value === String(module)) &&
      matching(`${category} ${text}`.toLowerCase()));
    list.replaceChildren();
    shown = 0;
    show();
    const few = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
    found.textContent = `${few(kept.size, "module")}, ${few(matches.length, "prompt")}`;
  }

  let waiting;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 100);
  });
  byId("search-form").addEventListener("submit", (event) => event.preventDefault());
  which.addEventListener("change", search);
  more.addEventListener("click", () => {
    const first = shown;
    show();
    list.children[first]?.querySelector("a").focus();
  });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      input.focus();
    } else if (event.key === "Escape" && document.activeElement === input && input.value) {
      input.value = "";
      search();
    }
  });
  for (const button of document.querySelectorAll("button[data-prompts-of]")) {
    button.addEventListener("click", () => {
      which.value = button.dataset.promptsOf;
      input.value = "";
      search();
      byId("prompts").scrollIntoView();
      which.focus({ preventScroll: true });
    });
  }
  // A search may have hidden the card that a link leads to.
  document.addEventListener("click", ({ target }) => {
    const hash = target.closest("a")?.getAttribute("href");
    if (hash?.startsWith("#module-")) byId(hash.slice(1)).hidden = false;
  });
  // The bar stays on top, so a jump should stop below it.
  const bar = byId("search-form");
  new ResizeObserver(() => {
    document.documentElement.style.scrollPaddingTop = `${bar.offsetHeight + 16}px`;
  }).observe(bar);
  search();

  // A figure is drawn when it is scrolled near; plotly is unpacked once, for the first figure.
  const drawings = [...document.querySelectorAll("[data-figure]")];
  let plotly;
  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }
  async function loaded() {
    const script = document.createElement("script");
    script.textContent = await unpacked("plotly-source");
    document.head.append(script);
    return window.Plotly;
  }
  const ink = () => getComputedStyle(document.body).color;
  async function draw(drawing) {
    plotly ??= loaded();
    const { data, layout } = JSON.parse(byId(drawing.dataset.figure).textContent);
    delete layout.width;
    layout.font = { ...layout.font, color: ink() };
    layout.title.text = "";
    layout.margin = { t: 20 };
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // a finger should scroll the page
    if (innerWidth < 600 && layout.yaxis.ticktext) {
      layout.yaxis.ticktext = layout.yaxis.ticktext.map((name) => name.split(":")[0]);
    }
    await (await plotly).newPlot(drawing, data, layout, { responsive: true, displaylogo: false });
    drawing.dataset.drawn = "";
  }
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "600px" });
  drawings.forEach((drawing) => near.observe(drawing));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", async () => {
    for (const drawing of drawings) {
      if ("drawn" in drawing.dataset) (await plotly).relayout(drawing, { "font.color": ink() });
    }
  });
})();
