// Draws the figures of a study's page from the numbers that lie beside them.
"use strict";
(() => {
  const INK = "#222222", MUTED = "#6b6b6b", RULE = "#e4e4e4", LAW = "138,138,138";
  const FONT = {family: getComputedStyle(document.body).fontFamily, size: 13, color: INK};
  const CONFIG = {
    responsive: true, displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: {format: "svg"},
  };
  const axis = title => ({
    title: {text: title, font: {color: MUTED, size: 13}}, gridcolor: RULE, zeroline: false,
    tickfont: {color: MUTED}, linecolor: "#9a9a9a", automargin: true,
  });
  const layout = (x, y) => ({
    font: FONT, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff", height: 560, hovermode: "closest",
    margin: {l: 60, r: 20, t: 20, b: 55}, xaxis: x, yaxis: y,
    legend: {font: {size: 12}, tracegroupgap: 0, itemsizing: "constant"},
    hoverlabel: {bgcolor: "#ffffff", bordercolor: RULE, font: {...FONT, size: 13}, align: "left"},
  });

  // Calls `draw` with the numbers and what is chosen, now and whenever something else is chosen.
  const figure = (name, draw) => {
    const data = document.getElementById(`${name}-data`);
    if (data === null) return;
    const numbers = JSON.parse(data.textContent);
    const selects = [...document.querySelectorAll(`#${name}-controls select`)];
    const update = () => {
      const chosen = Object.fromEntries(selects.map(select => [select.name, select.value]));
      const {traces, layout} = draw(numbers, chosen);
      Plotly.react(`${name}-plot`, traces, layout, CONFIG);
    };
    for (const select of selects) select.addEventListener("change", update);
    update();
  };

  const lawTraces = law => law.reason !== undefined ? [] : [
    {
      x: [...law.complexity, ...[...law.complexity].reverse()],
      y: [...law.high, ...[...law.low].reverse()],
      fill: "toself", fillcolor: `rgba(${LAW},0.16)`, line: {width: 0}, mode: "lines",
      hoverinfo: "skip", name: "law, 95 %", legendgroup: "law", legendrank: 2000,
    },
    {
      x: law.complexity, y: law.expected, mode: "lines", line: {color: `rgb(${LAW})`, width: 2},
      hoverinfo: "skip", name: "law", legendgroup: "law", showlegend: false,
    },
  ];

  const familyTraces = (models, points) => {
    const families = new Map();
    models.forEach((model, i) => {
      if (points[i] === null) return;
      if (!families.has(model.family)) families.set(model.family, []);
      families.get(model.family).push({...model, ...points[i]});
    });
    return [...families].flatMap(([family, members]) => [
      // What stands in the legend: a family is filled there whatever its first model is.
      {
        x: [null], y: [null], mode: "markers", name: family, legendgroup: family,
        marker: {symbol: members[0].symbol, size: 10, color: members[0].colour},
      },
      {
        x: members.map(one => one.x), y: members.map(one => one.y), mode: "markers",
        legendgroup: family, showlegend: false,
        error_y: {
          type: "data", array: members.map(one => one.deviation ?? 0), thickness: 1.3, width: 0,
          color: members[0].colour,
        },
        marker: {
          symbol: members.map(one => one.symbol), size: 11,
          color: members.map(one => one.member ? one.colour : "#ffffff"),
          line: {color: members[0].colour, width: 2},
        },
        text: members.map(one => one.told), hovertemplate: "%{text}<extra></extra>",
      },
    ]);
  };

  // Room around all points, and for the names at the left.
  const range = (values, before, after) => {
    const logs = values.map(Math.log10), low = Math.min(...logs), high = Math.max(...logs);
    const span = Math.max(high - low, 0.1);
    return [low - before * span, high + after * span];
  };

  figure("relations", (numbers, chosen) => {
    const relation = numbers.relations[`${chosen.quality}/${chosen.complexity}`];
    const known = relation.points.filter(point => point !== null);
    const named = known.length <= 25 ? relation.points : [];
    const steps = {
      ...relation.steps, mode: "lines", line: {shape: "hv", color: INK, width: 1.3},
      hoverinfo: "skip", name: "Pareto set", legendrank: 2001,
    };
    const names = {
      // Markers that nobody sees keep the names off the points.
      mode: "markers+text", marker: {size: 12, color: "rgba(0,0,0,0)"}, cliponaxis: false,
      hoverinfo: "skip", showlegend: false, textposition: "top left",
      x: named.map(point => point?.x), y: named.map(point => point?.y),
      text: named.map((point, i) => point && numbers.models[i].name),
      textfont: {size: 11, color: MUTED},
    };
    const reason = relation.law.reason;
    const spread = known.flatMap(({y, deviation}) => [
      Math.max(y - (deviation ?? 0), y / 2), y + (deviation ?? 0),
    ]);
    const figureLayout = layout(
      {
        ...axis(`${numbers.titles[chosen.complexity]}, logarithmic`), type: "log", dtick: "D2",
        tickformat: "~s", range: range(known.map(({x}) => x), 0.16, 0.06),
      },
      {
        ...axis(`${numbers.titles[chosen.quality]}, logarithmic`), type: "log",
        tickformat: "~g", range: range(spread, 0.08, 0.12),
      },
    );
    if (reason !== undefined) {
      figureLayout.annotations = [{
        text: reason.length > 120 ? reason.slice(0, 117) + "…" : reason, xref: "paper", yref: "paper",
        x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", showarrow: false, font: {color: MUTED},
      }];
      figureLayout.margin.t = 40;
    }
    return {
      traces: [
        ...lawTraces(relation.law), steps, ...familyTraces(numbers.models, relation.points), names,
      ],
      layout: figureLayout,
    };
  });

  figure("curves", (numbers, chosen) => {
    const many = numbers.models.length > 30;
    const traces = numbers.models.map((model, i) => {
      const y = numbers.curves[chosen.curve][i];
      return {
        x: y.map((_, epoch) => epoch + 1), y, name: model.name,
        mode: y.length > 1 ? "lines" : "markers",
        line: {color: model.colour, dash: many ? "solid" : model.dash, width: many ? 1.2 : 1.8},
        hovertemplate: "<b>%{fullData.name}</b><br>epoch %{x}: %{y:.4f}<extra></extra>",
      };
    });
    const y = axis(numbers.titles[chosen.curve]);
    return {traces, layout: layout({...axis("epoch"), showgrid: false}, y)};
  });
})();
