"""The look of report.html: its style sheet, the script that themes the charts, its request policy.

Plain text for `html`; nothing is computed here. Colours are CSS variables with a light and a dark
value; the script hands the same two to plotly, which draws outside the reach of style sheets.
"""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)

STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --soft: #5b616b; --paper: #ffffff;
  --line: #d9dce1; --panel: #f5f6f8; --warn: #fff4d6; --warn-ink: #5c4300; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a2a9b4; --paper: #15171b;
  --line: #363b44; --panel: #1e2127; --warn: #40330f; --warn-ink: #ffe3a1; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 14px 0 6px; }
h2 { font-size: 20px; margin: 40px 0 6px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 18px 0 0; }
p { max-width: 82ch; }
.first, .warnings { background: var(--warn); color: var(--warn-ink); border-radius: 6px; }
.first { font-weight: 600; padding: 8px 14px; margin: 0; max-width: none; }
.warnings { padding: 4px 14px; font-size: 14px; }
.warnings ul { margin: 6px 0; padding-left: 18px; }
.facts, .small { color: var(--soft); font-size: 13px; }
.small { white-space: normal; }
.effects td { white-space: nowrap; }
.effects th, .effects td { padding-right: 11px; }
.effects .small { white-space: nowrap; font-size: 12px; }
.effects { font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; margin: 10px 0;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); vertical-align: bottom; }
th, td { padding: 5px 16px 5px 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; }
td:first-child { font-weight: 600; }
details { margin: 6px 0; background: var(--panel); border-radius: 6px; padding: 6px 12px; }
summary { cursor: pointer; }
pre { overflow-x: auto; font-size: 12.5px; background: var(--panel); padding: 8px 12px;
  border-radius: 6px; }
.chart { margin: 8px 0; }
@media print { :root { --ink: #000; --soft: #444; --paper: #fff; --line: #ccc; --panel: #f4f4f4; }
  main { max-width: none; padding: 0; } .chart, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .modebar { display: none; } .wide { overflow: visible; } }
"""

SCRIPT = """
(function () {
  const dark = window.matchMedia('(prefers-color-scheme: dark)');
  function paint(isDark) {
    const ink = isDark ? '#e6e8eb' : '#1d1f23', panel = isDark ? '#2a2e36' : '#ffffff';
    document.querySelectorAll('.js-plotly-plot').forEach(function (chart) {
      Plotly.relayout(chart, {'font.color': ink, 'hoverlabel.bgcolor': panel,
        'hoverlabel.font.color': ink});
      chart.data.forEach(function (trace, index) {
        if (trace.type === 'bar') Plotly.restyle(chart, {'error_x.color': ink}, [index]);
      });
    });
  }
  paint(dark.matches);
  dark.addEventListener('change', function (event) { paint(event.matches); });
  window.addEventListener('beforeprint', function () { paint(false); });
  window.addEventListener('afterprint', function () { paint(dark.matches); });
})();
"""
