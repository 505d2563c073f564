// The page: its table, the op that its address names, and the raw tables.
"use strict";

(() => {
  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  // --- The raw tables ---

  const embedded = new Map([...document.querySelectorAll("script.frame")].map((script) => [script.dataset.name, script]));
  const decoded = new Map();
  const number = (value) => (typeof value === "string" ? Number(value.replace("inf", "Infinity")) : value);

  function frame(name) {
    if (!decoded.has(name)) {
      decoded.set(name, JSON.parse(embedded.get(name).textContent).map(({ name, meaning, texts, codes, numbers }) => {
        const at = texts ? (i) => texts[codes[i]] : (i) => number(numbers[i]);
        return { name, meaning, texts, at, length: (codes ?? numbers).length };
      }));
    }
    return decoded.get(name);
  }

  const written = (value) => {
    if (value === null) return "";
    return typeof value === "string" || Number.isFinite(value) ? String(value) : String(value).replace("Infinity", "inf");
  };
  // DataTables takes what it shows and searches for HTML; what is sorted is as it was, what is exported is text.
  const cell = (at) => ({ i }, type) => {
    if (type === "display" || type === "filter") return DataTable.util.escapeHtml(written(at(i)));
    return type === "sort" || type === "type" ? at(i) : written(at(i));
  };
  // Words are searched for, not what is the same everywhere, nor lists and numbers.
  const words = ({ texts }) => texts?.length > 1 && !texts.every((text) => /^([[{].*)?$/.test(text));

  function showFrame(host, name, keep) {
    const columns = frame(name);
    const table = element("table", undefined, { class: "numbers" });
    const head = element("tr");
    for (const column of columns) head.append(element("th", column.name, { scope: "col", title: column.meaning }));
    table.append(element("thead"));
    table.tHead.append(head);
    const done = element("output");
    host.replaceChildren(table, done);
    const kept = columns.filter((column) => column.name in keep);
    const data = Array.from({ length: columns[0]?.length ?? 0 }, (_, i) => ({ i }))
      .filter(({ i }) => kept.every((column) => column.at(i) === keep[column.name]));
    // As it is: what Buttons would strip of a text is for HTML.
    const exported = { exportOptions: { orthogonal: "export", format: { body: (value) => value } } };
    const made = new DataTable(table, {
      data,
      columns: columns.map((column) => ({ data: cell(column.at), type: column.texts ? "string" : "num", searchable: words(column) })),
      order: [],
      autoWidth: false,
      deferRender: true,
      searchDelay: 300,
      pageLength: 25,
      layout: {
        topStart: { buttons: [
          { extend: "copyHtml5", text: "Copy", title: null, copySuccess: false, told: "Copied", ...exported },
          { extend: "csvHtml5", text: "Download CSV", filename: name, told: `Saved ${name}.csv,`, ...exported },
        ] },
        topEnd: "search",
        bottomStart: ["pageLength", "info"],
        bottomEnd: "paging",
      },
      language: {
        search: "Search for words",
        info: "_START_ to _END_ of _TOTAL_ rows",
        infoEmpty: "no rows",
        infoFiltered: "(of _MAX_)",
        emptyTable: "No rows.",
        zeroRecords: "No row has this.",
        lengthMenu: "_MENU_ rows a page",
      },
    });
    // Here, as what Buttons would show lies below an open dialog.
    made.on("buttons-action", (event, button, api, node, { told }) => {
      done.textContent = `${told} ${api.rows({ search: "applied" }).count().toLocaleString("en")} rows.`;
    });
    const scrolled = table.closest(".dt-layout-cell, .dt-layout-full") ?? table.parentElement;
    const region = { role: "region", tabindex: "0", "aria-label": `${name}.csv` };
    for (const [key, value] of Object.entries(region)) scrolled.setAttribute(key, value);
    scrolled.classList.add("scroll");
  }

  // The tables are made when they are opened: most readers never do.
  function prepareRaw(details, keep = {}) {
    details.addEventListener("toggle", () => {
      if (!details.open || details.querySelector("select")) return;
      const select = element("select");
      for (const name of embedded.keys()) select.append(element("option", `${name}.csv`, { value: name }));
      const label = element("label", "Table ");
      label.append(select);
      const host = element("div");
      const meanings = element("details");
      details.append(label, host, meanings);
      const show = () => {
        showFrame(host, select.value, keep);
        const list = element("dl");
        for (const { name, meaning } of frame(select.value)) list.append(element("dt", name), element("dd", meaning));
        meanings.replaceChildren(element("summary", "What the columns mean"), list);
      };
      select.addEventListener("change", show);
      show();
    });
  }
  prepareRaw(document.querySelector("main [data-raw]"));

  // --- The table of ops ---

  const ops = document.getElementById("ops");
  const names = [...ops.tHead.rows[0].cells].map((cell) => cell.dataset.name);
  const table = new DataTable(ops, {
    paging: false,
    order: [],
    autoWidth: false,
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    language: { zeroRecords: "No op has this." },
  });
  const filters = document.getElementById("filters");
  const shown = document.getElementById("shown");

  function filter() {
    for (const control of filters.querySelectorAll("[name]")) {
      const column = table.column(names.indexOf(control.name));
      if (control.tagName === "SELECT") {
        const whole = control.value && `^${DataTable.util.escapeRegex(control.value)}$`;
        column.search(whole, { regex: true, smart: false, caseInsensitive: false });
      } else {
        column.search(control.value);
      }
    }
    table.draw();
    const { recordsDisplay, recordsTotal } = table.page.info();
    shown.textContent = recordsDisplay === recordsTotal ? `${recordsTotal} rows` : `${recordsDisplay} of ${recordsTotal} rows`;
  }
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(filter));
  filter();

  // --- The roofline ---

  const rooflines = document.querySelector("[data-roofline]");
  function drawRooflines() {
    if (!rooflines?.open) return;
    for (const drawn of rooflines.querySelectorAll("section")) drawn.remove();
    for (const found of JSON.parse(document.getElementById("rooflines").textContent)) {
      const section = element("section");
      const note = "Of value and gradient in one executable, and of each byte that they must move. A line joins rule and autodiff of one op. Dashed: the peak of elementwise ops. What moves data without an operation is not shown.";
      section.append(element("p", [found.run, found.text].filter(Boolean).join(": "), { class: "note" }));
      section.append(charts.roofline(found, rooflines.clientWidth), element("p", note, { class: "note" }));
      rooflines.append(section);
    }
  }
  rooflines?.addEventListener("toggle", drawRooflines);

  // --- The op that the address names ---

  const dialog = document.getElementById("detail");
  const found = new Map([...document.querySelectorAll("script.op")].map((script) => [script.dataset.key, script]));
  const asked = () => {
    try {
      return decodeURIComponent(location.hash.slice(1));
    } catch {
      return "";
    }
  };
  let redraw = () => {};

  function open() {
    const key = asked();
    if (!found.has(key)) {
      if (dialog.open) dialog.close();
      return;
    }
    fill(JSON.parse(found.get(key).textContent), key);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    dialog.querySelector("#detail-title").focus();
    redraw();
  }

  function fill(detail, key) {
    dialog.replaceChildren(document.getElementById("detail-template").content.cloneNode(true));
    const at = (selector) => dialog.querySelector(selector);
    at("h2").textContent = `${detail.op}, ${detail.dtype}`;
    at("[data-run]").textContent = detail.run;
    at("[data-run]").hidden = !names.includes("run");
    at(".formula").textContent = detail.formula;
    for (const [name, question] of Object.entries(charts.settings.questions)) {
      const { word, text, tone } = detail.answers[name];
      if (!word) continue;
      const item = element("li", `${question} `);
      item.append(element("span", word, { class: tone }), ` ${text}`);
      at(".answers").append(item);
    }
    const keys = [...ops.tBodies[0].querySelectorAll("a")].map((link) => decodeURIComponent(link.hash.slice(1)));
    for (const link of dialog.querySelectorAll("[data-step]")) {
      const next = keys[keys.indexOf(key) + Number(link.dataset.step)];
      if (next === undefined || !keys.includes(key)) link.remove();
      else link.href = `#${encodeURIComponent(next)}`;
    }
    at("[data-close]").addEventListener("click", () => dialog.close());

    const select = at("[data-case]");
    for (const part of dialog.querySelectorAll("[data-cases]")) part.hidden = !detail.cases.length;
    for (const { name } of detail.cases) select.append(element("option", name));
    select.value = detail.case;
    redraw = () => draw(detail, detail.cases.find(({ name }) => name === select.value) ?? { name: "", shapes: "", engines: [] });
    select.addEventListener("change", redraw);

    at("[data-options]").hidden = !detail.options.length;
    at("[data-options] .scroll").append(plainTable(detail.options));
    prepareRaw(at("[data-raw]"), { op: detail.op, dtype: detail.dtype, run: detail.run });
  }

  function draw(detail, at) {
    dialog.querySelector("[data-shapes]").textContent = at.shapes;
    const host = dialog.querySelector(".charts");
    host.replaceChildren();
    const whole = host.clientWidth;
    const half = whole >= 760 ? Math.floor((whole - 32) / 2) : whole;
    const add = (title, pictures, note, wide) => {
      const section = element("section", undefined, { class: wide ? "chart wide" : "chart" });
      section.append(element("h3", title));
      const row = element("div", undefined, { class: "pictures" });
      row.append(...pictures);
      section.append(row, element("p", note, { class: "note" }));
      host.append(section);
    };
    const plane = charts.plane(detail, at, half);
    if (plane) {
      const band = `The green band ends at ${charts.settings.fair} ULP.`;
      const pale = "Pale marks: numerical gradients measured on a sample of entries.";
      add("Accuracy against speed", [plane], `Lower left is best. Dashed: the Pareto front. ${band} ${pale}`);
    }
    const growth = charts.growth(detail, at, half);
    if (growth) {
      const fits = detail.growth.curves.map(({ engine, text }) => `${engine}: ${text}`);
      const fitted = `Dashed: the fit to time beyond the dispatch floor. ${fits.join("; ")}.`;
      const none = "No exponent is fitted: that takes five sizes (jaxbp bench --growth).";
      add("Time against size", [growth], fits.length ? fitted : none);
    }
    const memory = charts.memory(detail, at, half);
    const allocated = "Kept between the passes; temporary memory of fwd_bwd beside arguments and outputs.";
    if (memory) add("Memory", [memory], allocated);
    const limit = charts.limit(detail, at, half);
    const least = "the least time that operations and bytes of fwd_bwd take at the measured peak, over the time taken";
    if (limit) add("Roofline", [limit], `Percent of the physical limit: ${least}.`);
    for (const { title, pictures } of charts.censuses(detail, at, whole)) {
      const worst = "The worst error of each binade, or of each part of a sample, at the argument that has it.";
      const none = "No mark: every result is correctly rounded.";
      add(`Error against the argument: ${title}`, pictures, `${worst} ${none}`, true);
    }
    if (!host.children.length) host.append(element("p", "There are no pictures: nothing of this op was timed."));
    dialog.querySelector("[data-engines]").replaceChildren(plainTable(at.engines.map(({ engine, text }) => ({ engine, ...text }))));
  }

  function plainTable(rows) {
    const made = element("table");
    const columns = rows.length ? Object.keys(rows[0]) : [];
    const head = made.createTHead().insertRow();
    for (const column of columns) head.append(element("th", column, { scope: "col" }));
    const body = made.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      columns.forEach((column, i) => line.append(i ? element("td", row[column]) : element("th", row[column], { scope: "row" })));
    }
    return made;
  }

  dialog.addEventListener("close", () => {
    dialog.replaceChildren();
    // Without a jump to the top, as an empty fragment would be.
    if (found.has(asked())) history.replaceState(null, "", "#ops-heading");
  });
  window.addEventListener("hashchange", open);
  let width = innerWidth;
  window.addEventListener("resize", () => {
    if (dialog.open && innerWidth !== width) requestAnimationFrame(redraw);
    if (innerWidth !== width) requestAnimationFrame(drawRooflines);
    width = innerWidth;
  });
  open();
})();
