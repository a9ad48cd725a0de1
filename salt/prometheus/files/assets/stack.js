// Draws the pages of the dashboard.yaml files (salt/_modules/dashboards.py) with uPlot (vendor/). Nothing comes
// from elsewhere: a page works through a tunnel on a machine without internet.
"use strict";
(function () {
  var page = JSON.parse(document.getElementById("page").textContent);
  var ranges = [["15 min", 900], ["1 h", 3600], ["6 h", 21600], ["1 day", 86400], ["1 week", 604800]];
  var span = Number(sessionStorage.getItem("span")) || 3600;
  // Seconds since 1970, from and to, of what was chosen in a curve; else the last `span` seconds.
  var zoom = null;
  var root = document.getElementById("stack");
  var cards = [];

  function make(tag, given, inside) {
    var one = document.createElement(tag);
    Object.keys(given || {}).forEach(function (key) { one.setAttribute(key, given[key]); });
    (Array.isArray(inside) ? inside : inside === undefined ? [] : [inside]).forEach(function (child) { one.append(child); });
    return one;
  }

  // --- numbers a person reads ---
  function digits(value) {
    var size = Math.abs(value);
    if (size >= 100000) { return Math.round(value).toLocaleString("en-US").replace(/,/g, "\u202f"); }
    if (size >= 100 || value === Math.round(value)) { return String(Math.round(value)); }
    if (size >= 10) { return value.toFixed(1); }
    if (size >= 1) { return value.toFixed(2); }
    return size === 0 ? "0" : size >= 0.001 ? String(Number(value.toPrecision(2))) : value < 1e-6 ? "0" : String(Number(value.toPrecision(1)));
  }
  function scaled(value, step, names) {
    var index = 0;
    while (Math.abs(value) >= step && index < names.length - 1) { value /= step; index += 1; }
    return digits(value) + " " + names[index];
  }
  function lasted(value) {
    var size = Math.abs(value);
    if (size === 0) { return "0 s"; }
    if (size < 0.001) { return digits(value * 1e6) + " \u00b5s"; }
    if (size < 1) { return digits(value * 1e3) + " ms"; }
    if (size < 120) { return digits(value) + " s"; }
    if (size < 7200) { return digits(value / 60) + " min"; }
    if (size < 172800) { return digits(value / 3600) + " h"; }
    return digits(value / 86400) + " days";
  }
  function show(value, unit) {
    if (!isFinite(value)) { return "\u2013"; }
    if (unit === "bytes") { return scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]); }
    if (unit === "bytes per second") { return scaled(value, 1024, ["B/s", "KiB/s", "MiB/s", "GiB/s"]); }
    if (unit === "percent") { return digits(value) + " %"; }
    if (unit === "seconds") { return lasted(value); }
    if (unit === "per second") { return digits(value) + " /s"; }
    if (unit === "days") { return digits(value) + " days"; }
    if (unit === "up") { return value === 1 ? "up" : "down"; }
    if (unit === "time") { return lasted(Date.now() / 1000 - value) + " ago"; }
    return digits(value);
  }
  function clock(seconds, exact) {
    var when = new Date(seconds * 1000);
    var two = function (value) { return String(value).padStart(2, "0"); };
    var time = two(when.getHours()) + ":" + two(when.getMinutes()) + (exact ? ":" + two(when.getSeconds()) : "");
    return shownSpan() > 86400 ? when.getDate() + "." + (when.getMonth() + 1) + ". " + time : time;
  }
  function shownSpan() { return zoom ? zoom[1] - zoom[0] : span; }

  // --- asking Prometheus ---
  function ask(path, words) {
    return fetch("../api/v1/" + path + "?" + new URLSearchParams(words)).then(function (answer) {
      return answer.json();
    }).then(function (answer) {
      if (answer.status !== "success") { throw new Error(answer.error); }
      return answer.data;
    });
  }
  var several = false;
  function name(labels, legend) {
    if (!legend) { legend = "$machine"; }
    var text = legend.replace(/\$(\w+)/g, function (_, key) {
      // On a topology of one machine its name tells nothing.
      if (key === "machine" && !several && legend !== "$machine") { return ""; }
      return labels[key] || "";
    });
    return text.trim();
  }
  // {from, to, step, times, lines: [{name, values}]}: a value for each time, null where there is none.
  function series(panel, now) {
    var step = Math.max(10, Math.round(shownSpan() / 180 / 5) * 5);
    var to = Math.ceil((zoom ? zoom[1] : now) / step) * step;
    var from = to - Math.ceil(shownSpan() / step) * step;
    var times = [];
    for (var time = from; time <= Math.min(to, now); time += step) { times.push(time); }
    return Promise.all(panel.queries.map(function (query) {
      return ask("query_range", { query: query.expr, start: from, end: Math.min(to, now), step: step }).then(function (data) {
        return data.result.map(function (one) {
          var values = times.map(function () { return null; });
          one.values.forEach(function (v) { if (isFinite(v[1])) { values[Math.round((v[0] - from) / step)] = Number(v[1]); } });
          return { name: name(one.metric, query.legend), values: values };
        });
      });
    })).then(function (parts) {
      var lines = [].concat.apply([], parts).filter(function (one) { return last(one.values) !== null; });
      return { from: from, to: to, step: step, times: times, lines: lines };
    });
  }
  function last(values) {
    return values.reduce(function (found, one) { return one === null ? found : one; }, null);
  }
  function values(panel) {
    return Promise.all(panel.queries.map(function (query) {
      return ask("query", { query: query.expr }).then(function (data) {
        return data.result.map(function (one) { return { name: name(one.metric, query.legend), value: Number(one.value[1]) }; });
      });
    })).then(function (parts) { return [].concat.apply([], parts); });
  }

  // --- drawing ---
  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim(); }
  var steps = [];
  for (var power = 0; power < 50; power += 1) { steps.push(Math.pow(2, power)); }

  // A line of `values`; what is missing for no more than three steps is drawn over.
  function line(one, index, data) {
    return {
      label: one.name || " ", stroke: colour("s" + index % 8), width: 1.8, dash: index >= 8 ? [4, 3] : undefined,
      points: one.values.filter(function (v) { return v !== null; }).length === 1 ? { show: true } : {},
      gaps: function (plot, _, first, end, gaps) {
        var most = plot.valToPos(data.from + data.step * 3, "x", true) - plot.valToPos(data.from, "x", true);
        return gaps.filter(function (gap) { return gap[1] - gap[0] > most; });
      }
    };
  }
  // The same plot with new values while its lines are the same: what a person has hidden stays hidden.
  function plot(one, data, options) {
    var key = JSON.stringify([data.lines.map(function (line) { return line.name; }), options.width, zoom, colour("s0")]);
    var values = [data.times].concat(data.lines.map(function (line) { return line.values; }));
    one.data = data;
    if (one.plot && one.key === key) {
      one.plot.setData(values);
    } else {
      if (one.plot) { one.plot.destroy(); }
      one.place = make("div");
      one.plot = new uPlot(options, values, one.place);
      one.key = key;
    }
    return one.place;
  }
  function graph(one, data) {
    var panel = one.panel;
    var axis = { stroke: colour("faint"), font: "11px system-ui, sans-serif", grid: { stroke: colour("line"), width: 1 }, ticks: { show: false } };
    return [plot(one, data, {
      width: Math.max(260, one.card.clientWidth - 26), height: 190, padding: [8, 8, 0, 0],
      legend: { markers: { fill: function (_, index) { return colour("s" + (index - 1) % 8); } } },
      scales: {
        x: { range: function () { return [one.data.from, one.data.to]; } },
        y: { range: function (_, low, high) { return [Math.min(0, low || 0), panel.max || (high > 0 ? high * 1.08 : 1)]; } }
      },
      axes: [
        Object.assign({ space: 70, size: 24, values: function (_, times) { return times.map(function (t) { return clock(t); }); } }, axis),
        Object.assign({ size: 68, gap: 4, values: function (_, ticks) { return ticks.map(function (v) { return panel.unit === "time" ? "" : show(v, panel.unit); }); } },
          panel.unit.indexOf("bytes") === 0 ? { incrs: steps } : {}, axis)
      ],
      series: [{ value: function (_, t) { return t === null ? "" : clock(t, true); } }].concat(data.lines.map(function (each, index) {
        return Object.assign(line(each, index, data), {
          // Beside the cursor what was there, else the last.
          value: function (_, value, number, at) { return at === null ? show(last(one.data.lines[number - 1].values), panel.unit) : value === null ? "\u2013" : show(value, panel.unit); }
        });
      })),
      // One cursor over all plots of the page; a stretch that is drawn over is what they show then.
      cursor: {
        sync: { key: "page" }, y: false, drag: { x: true, y: false, setScale: false },
        bind: { dblclick: function () { return function () { zoom = null; draw(); }; } }
      },
      hooks: {
        setSelect: [function (plot) {
          if (plot.select.width < 5) { return; }
          zoom = [plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")];
          plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          draw();
        }]
      }
    })];
  }
  function worse(panel, value) {
    if (panel.unit === "up") { return value === 1 ? "good" : "bad"; }
    if (panel.bad !== undefined && value >= panel.bad) { return "bad"; }
    if (panel.warn !== undefined && value >= panel.warn) { return "warn"; }
    return panel.bad !== undefined ? "good" : "";
  }
  function number(one, data) {
    var panel = one.panel, value = last(data.lines[0].values);
    data.lines = data.lines.slice(0, 1);
    return [make("div", { class: "big " + worse(panel, value) }, show(value, panel.unit)), plot(one, data, {
      width: Math.max(80, one.card.clientWidth - 26), height: 30,
      scales: {
        x: { range: function () { return [one.data.from, one.data.to]; } },
        y: { range: function (_, low, high) { return [panel.unit !== "count" || low === high ? Math.min(0, low) : low, high === low ? low + 1 : high]; } }
      },
      axes: [{ show: false }, { show: false }], padding: [2, 0, 2, 0], legend: { show: false }, cursor: { show: false },
      series: [{}, Object.assign(line(data.lines[0], 0, data), { width: 1.5 })]
    })];
  }
  function states(panel, found) {
    return [make("div", { class: "chips" }, found.map(function (one) {
      return make("span", { class: "chip " + worse(panel, one.value) }, [one.name + " ", make("b", {}, show(one.value, panel.unit))]);
    }))];
  }
  function alerts(found) {
    var order = { page: 0, ticket: 1, info: 2 };
    found = found.filter(function (one) { return one.state === "firing" && one.labels.alertname !== "Watchdog"; });
    if (!found.length) { return [make("div", { class: "well" }, "Nothing is wrong.")]; }
    found.sort(function (a, b) { return order[a.labels.severity] - order[b.labels.severity]; });
    return found.map(function (one) {
      return make("div", { class: "alert " + one.labels.severity }, [
        make("b", {}, one.labels.alertname), make("em", {}, one.annotations.summary),
        make("span", {}, one.labels.severity + " \u00b7 since " + lasted((Date.now() - Date.parse(one.activeAt)) / 1000)),
        make("span", {}, one.annotations.runbook)
      ]);
    });
  }

  function draw() {
    var now = Date.now() / 1000;
    return ask("query", { query: "count(count by (machine) (up))" }).then(function (data) {
      several = data.result.length > 0 && Number(data.result[0].value[1]) > 1;
      return Promise.all(cards.map(function (one) {
        var panel = one.panel, answer;
        if (panel.kind === "alerts") { answer = ask("alerts", {}).then(function (found) { return alerts(found.alerts); }); }
        else if (panel.kind === "states") { answer = values(panel).then(function (found) { return found.length ? states(panel, found) : null; }); }
        else { answer = series(panel, now).then(function (found) { return found.lines.length ? (panel.kind === "number" ? number : graph)(one, found) : null; }); }
        return answer.then(function (parts) {
          one.inside.replaceChildren.apply(one.inside, parts || [make("div", { class: "none" }, panel.kind === "number" ? "\u2013" : "nothing in this time")]);
          one.card.dataset.empty = parts ? "" : "yes";
        });
      }));
    }).then(function () {
      when.textContent = zoom ? clock(zoom[0], true) + " \u2013 " + clock(zoom[1], true) : "as of " + new Date().toLocaleTimeString();
      back.hidden = !zoom;
      document.body.dataset.drawn = "yes";
    }).catch(function (error) {
      when.textContent = "Prometheus does not answer: " + error.message;
    });
  }

  var nav = make("nav", {}, page.pages.map(function (one) {
    var given = { href: one[0] + ".html" };
    if (one[0] === page.name) { given["aria-current"] = "page"; }
    return make("a", given, one[1]);
  }));
  var when = make("span", { class: "when" });
  var buttons = ranges.map(function (one) {
    var button = make("button", { "aria-pressed": String(one[1] === span) }, one[0]);
    button.onclick = function () {
      span = one[1];
      zoom = null;
      sessionStorage.setItem("span", span);
      buttons.forEach(function (other) { other.setAttribute("aria-pressed", String(other === button)); });
      draw();
    };
    return button;
  });
  var back = make("button", { hidden: "" }, "zoom out");
  back.onclick = function () { zoom = null; draw(); };
  var grid = make("div", { class: "grid" });
  page.panels.forEach(function (panel) {
    var inside = make("div");
    var title = panel.from && panel.from !== page.name ? make("a", { href: panel.from + ".html" }, panel.title) : panel.title;
    var card = make("section", { class: panel.kind + (panel.wide ? " wide" : "") }, [make("h2", {}, [title, panel.about ? make("small", {}, " \u00b7 " + panel.about) : ""]), inside]);
    grid.append(card);
    cards.push({ card: card, inside: inside, panel: panel });
  });
  root.append(make("header", {}, nav), make("div", { class: "head" }, [make("h1", {}, page.title), make("span", { class: "about" }, page.about), make("div", { class: "tools" }, buttons.concat([back, when]))]), grid);
  draw();
  setInterval(function () { if (!document.hidden && !zoom) { draw(); } }, 10000);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.addEventListener("resize", draw);
}());
