// The pictures of an op, drawn by Observable Plot from numbers that Python has computed.
"use strict";

const charts = (() => {
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const floor = settings.least / 1.5;
  const ceiling = settings.most * 2;

  const unit = (units) => (value) => {
    const [scale, name] = units.find(([scale]) => Math.abs(value) >= scale) ?? units.at(-1);
    return `${Number((value / scale).toPrecision(3))} ${name}`;
  };
  const time = unit([[3.6e9, "h"], [1e6, "s"], [1e3, "ms"], [1, "µs"], [1e-3, "ns"]]);
  const size = unit([[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]]);
  const power = (value) => {
    const exponent = Math.log10(value);
    return Number.isInteger(Math.round(exponent * 1e6) / 1e6)
      ? value >= 1e4 || value < 1e-2 ? `1e${Math.round(exponent)}` : String(value)
      : "";
  };

  // Colour and mark of each engine; outlines in the text's colour keep dark marks visible on dark pages.
  function scales(rows) {
    const domain = [...new Map(rows.map((row) => [row.engine, row.style]))];
    const names = domain.map(([engine]) => engine);
    const style = domain.map(([, style]) => settings.styles[style] ?? { color: "#999999", symbol: "circle" });
    return {
      color: { domain: names, range: style.map((s) => s.color) },
      symbol: { domain: names, range: style.map((s) => s.symbol), legend: true },
    };
  }

  const marks = { fill: "engine", symbol: "engine", r: 5.5, stroke: "currentColor", strokeWidth: 0.8 };
  const hollow = (row) => (row.sampled ? 0.15 : 1);
  // To a screen reader a picture with a name; its numbers are in the table below.
  function picture(width, label, options) {
    const sizes = { width, height: 320, marginLeft: 52, marginRight: 28, marginBottom: 40 };
    const made = Plot.plot({ ...sizes, style: { fontSize: "12px", background: "transparent" }, ariaLabel: label, ...options });
    const drawn = made.tagName === "svg" ? made : made.querySelector(":scope > svg");
    drawn.setAttribute("role", "img");
    for (const part of drawn.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
    return made;
  }

  function plane(detail, at, width) {
    const rows = at.engines.filter((row) => row.time !== null && row.ulp !== null);
    if (!rows.length) return null;
    const front = rows.filter((row) => row.front).sort((a, b) => a.time - b.time || b.ulp - a.ulp);
    const title = (row) => `${row.engine}\n${row.text.time}\n${row.text["worst gradient"]} ${detail.unit}`;
    return picture(width, `Worst error against time of each engine of ${detail.op}`, {
      ...scales(rows),
      x: { type: "log", label: "time of value and gradient →", grid: true, tickFormat: time, nice: true, ticks: width / 110 },
      y: { type: "log", label: `↑ worst gradient, ${detail.unit}`, grid: true, domain: [floor, ceiling], tickFormat: power },
      marks: [
        Plot.rect([settings], { y1: () => floor, y2: "fair", fill: "#009E73", fillOpacity: 0.1 }),
        Plot.line(front, { x: "time", y: "ulp", curve: "step-after", strokeDasharray: "5 4", strokeOpacity: 0.7 }),
        Plot.ruleY(rows, { x1: "low", x2: "high", y: "ulp", stroke: "engine" }),
        // The default rule last: it must not hide behind an engine that does as well.
        Plot.dot(rows.toReversed(), { ...marks, x: "time", y: "ulp", fillOpacity: hollow }),
        Plot.tip(rows, Plot.pointer({ x: "time", y: "ulp", title })),
      ],
    });
  }

  function growth(detail, at, width) {
    if (!detail.growth) return null;
    const { points, curves } = detail.growth;
    const fitted = curves.flatMap(({ engine, points }) => points.map(([n, time]) => ({ engine, n, time })));
    const title = (row) => `${row.engine}\n${row.n.toLocaleString("en")} entries\n${row.text}`;
    return picture(width, `Time of each engine of ${detail.op} against entries`, {
      ...scales(points),
      x: { type: "log", label: "entries of the largest array →", grid: true, tickFormat: power, nice: true },
      y: { type: "log", label: "↑ time of value and gradient", grid: true, tickFormat: time, ticks: 6 },
      marginLeft: 64,
      marks: [
        Plot.line(points, { x: "n", y: "time", z: "engine", stroke: "engine", strokeWidth: 1, strokeOpacity: curves.length ? 0.35 : 1 }),
        Plot.line(fitted, { x: "n", y: "time", z: "engine", stroke: "engine", strokeDasharray: "5 3" }),
        Plot.dot(points, { ...marks, x: "n", y: "time", r: 4, fillOpacity: hollow }),
        Plot.tip(points, Plot.pointer({ x: "n", y: "time", title })),
      ],
    });
  }

  function memory(detail, at, width) {
    const rows = at.engines.flatMap((row) =>
      ["kept", "temporary"]
        .filter((kind) => row[kind] !== null)
        .map((kind) => ({ engine: row.engine, kind, bytes: row[kind], text: row.text[kind] })),
    );
    if (!rows.length) return null;
    const engines = [...new Set(rows.map((row) => row.engine))];
    return bars(width, `Bytes that each engine of ${detail.op} keeps and allocates`, rows, {
      fy: { label: null, domain: engines, padding: 0.25, axis: "left" },
      y: { axis: null, domain: ["kept", "temporary"] },
      x: {
        label: "bytes →",
        grid: true,
        tickFormat: size,
        ticks: binary(Math.max(...rows.map((row) => row.bytes)), width / 110),
        insetRight: 60,
      },
      color: { domain: ["kept", "temporary"], range: ["#0072B2", "#E69F00"], legend: true },
      height: 70 + 42 * engines.length,
    }, { x: "bytes", y: "kind", fy: "engine", fill: "kind" });
  }

  // Marks at multiples of a power of two, as bytes come.
  function binary(most, count) {
    const step = 2 ** Math.ceil(Math.log2(Math.max(most, 1) / Math.max(2, Math.floor(count) - 1)));
    return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => i * step);
  }

  function limit(detail, at, width) {
    const rows = at.engines
      .filter((row) => row.limit !== null)
      .map(({ engine, limit, bound, text }) => {
        const said = text["physical limit"];
        return { engine, limit, bound, text: width < 480 ? said.replace(/ \(.*/, "") : said };
      });
    if (!rows.length) return null;
    const most = Math.max(100, ...rows.map((row) => row.limit));
    return bars(width, `Percent of the physical limit that each engine of ${detail.op} reaches`, rows, {
      y: { label: null, domain: rows.map((row) => row.engine) },
      x: { label: "percent of the physical limit →", grid: true, domain: [0, most], insetRight: 100 },
      color: { domain: ["memory", "compute"], range: ["#56B4E9", "#E69F00"], legend: true },
      height: 70 + 30 * rows.length,
    }, { x: "limit", y: "engine", fill: "bound" }, [Plot.ruleX([100], { strokeDasharray: "4 3" })]);
  }

  // Below the roof: what the device reaches at best with so many operations for each byte.
  function roofline({ dtype, peak, elementwise, bandwidth, points }, width) {
    const all = points.map((point) => point.intensity);
    const ridge = peak / bandwidth;
    const [least, most] = [Math.min(...all, ridge) / 2, Math.max(...all, ridge) * 2];
    const roof = [least, ridge, most].map((intensity) => ({ intensity, rate: Math.min(peak, bandwidth * intensity) }));
    // The lower roof of what no unit for matrices computes.
    const lower = [elementwise / bandwidth, most].map((intensity) => ({ intensity, rate: elementwise }));
    const pairs = d3.group(points, (point) => point.op);
    const between = [...pairs.values()].filter((pair) => pair.length === 2)
      .map(([a, b]) => ({ intensity: a.intensity, low: Math.min(a.rate, b.rate), high: Math.max(a.rate, b.rate) }));
    const rate = unit([[1e3, "TFLOP/s"], [1, "GFLOP/s"], [1e-3, "MFLOP/s"]]);
    const title = (row) => `${row.op}, ${row.engine}\n${rate(row.rate)}\n${row.text} of the limit`;
    const kinds = ["default rule", "autodiff"];
    return picture(width, `Operations a second against operations a byte of each op, ${dtype}`, {
      color: { domain: kinds, range: ["#0072B2", "#E69F00"] },
      symbol: { domain: kinds, range: ["circle", "diamond"], legend: true },
      x: { type: "log", label: "operations a byte →", grid: true, tickFormat: power },
      y: { type: "log", label: "↑ operations a second", grid: true, tickFormat: rate, ticks: 6 },
      height: 420,
      insetBottom: 8,
      marginLeft: 88,
      marks: [
        Plot.line(roof, { x: "intensity", y: "rate", strokeWidth: 2 }),
        Plot.line(lower, { x: "intensity", y: "rate", strokeDasharray: "4 3" }),
        Plot.ruleX(between, { x: "intensity", y1: "low", y2: "high", strokeOpacity: 0.4 }),
        Plot.dot(points.toReversed(), {
          ...marks, fill: "kind", symbol: "kind", r: 4.5, x: "intensity", y: "rate", href: (row) => `#${row.anchor}`,
        }),
        Plot.tip(points, Plot.pointer({ x: "intensity", y: "rate", title })),
      ],
    });
  }

  function bars(width, label, rows, options, channels, more = []) {
    const { fill, ...place } = channels;
    return picture(width, label, {
      ...options,
      marginLeft: 140,
      marks: [
        Plot.ruleX([0]),
        ...more,
        Plot.barX(rows, { ...place, fill, stroke: "currentColor", strokeWidth: 0.5 }),
        Plot.text(rows, { ...place, text: "text", textAnchor: "start", dx: 5, fill: "currentColor" }),
      ],
    });
  }

  // A plot of each quantity; negative arguments to the left, on an axis of their own.
  function censuses(detail, at, width) {
    return detail.census.map((record) => {
      // The default rule, which is the first, last: it must not hide behind another.
      const points = record.points.toSorted(([a], [b]) => b - a);
      const rows = points.map(([engine, quantity, x, ulp]) => ({ ...record.engines[engine], quantity: record.quantities[quantity], x, ulp }));
      const sides = [["x < 0", (x) => x < 0], ["x > 0", (x) => x > 0]]
        .map(([name, holds]) => ({ name, rows: rows.filter((row) => holds(row.x)) }))
        .filter((side) => side.rows.length);
      const title = (row) => `${row.engine}, ${row.quantity}\nx = ${row.x}\n${row.ulp >= settings.most ? "no digit right" : `${row.ulp} ULP`}`;
      const each = Math.floor(width >= 640 && sides.length === 2 ? (width - 20) / 2 : width);
      const most = Math.min(ceiling, 3 * Math.max(10, ...rows.map((row) => row.ulp)));
      const pictures = sides.map((side, i) => {
        const magnitudes = side.rows.map((row) => ({ ...row, magnitude: Math.abs(row.x) }));
        return picture(each, `Worst error of each binade of ${record.title}, ${side.name}`, {
          ...scales(record.engines),
          symbol: { ...scales(record.engines).symbol, legend: i === 0 },
          x: { type: "log", label: side.name === "x < 0" ? "← |x|, x < 0" : "x →", reverse: side.name === "x < 0", tickFormat: power, ticks: each / 90 },
          y: { type: "log", label: "↑ worst ULP", grid: true, domain: [floor, most], tickFormat: power, ticks: 5 },
          fy: { label: null, domain: record.quantities },
          marginRight: 48,
          height: 60 + 190 * record.quantities.length,
          marks: [
            Plot.frame({ strokeOpacity: 0.2 }),
            Plot.dot(magnitudes, { ...marks, x: "magnitude", y: "ulp", fy: "quantity", r: 2.5, strokeWidth: 0.3 }),
            Plot.tip(magnitudes, Plot.pointer({ x: "magnitude", y: "ulp", fy: "quantity", title })),
          ],
        });
      });
      return { title: record.title, pictures };
    });
  }

  return { settings, plane, growth, memory, limit, censuses, roofline };
})();
