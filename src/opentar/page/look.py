"""How the page looks: colours, type and spacing. Only fonts of the reader's machine, nothing from elsewhere."""

from __future__ import annotations

import gradio as gr

_FONT = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Noto Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "sans-serif",
)
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """The theme."""
    return gr.themes.Soft(
        primary_hue="indigo", secondary_hue="teal", neutral_hue="slate", radius_size="lg", font=_FONT, font_mono=_MONO
    ).set(
        body_background_fill="*neutral_50",
        block_border_width="1px",
        block_shadow="none",
        block_label_text_size="*text_sm",
        block_label_background_fill="*block_background_fill",
        block_label_background_fill_dark="*block_background_fill",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
        block_title_text_weight="600",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_600",
        button_border_width="1px",
        input_border_width="1px",
        checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="*neutral_500",
        checkbox_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        button_primary_shadow="none",
        button_secondary_shadow="none",
        input_shadow="none",
    )


CSS = """
.gradio-container { max-width: 1080px !important; width: 100% !important; margin: 0 auto !important; }
.gradio-container main { width: 100% !important; }
.ot-head { display: flex; align-items: baseline; gap: .75rem; flex-wrap: wrap; padding: .25rem .25rem 0; }
.ot-head h1 { font-size: 1.5rem; font-weight: 700; margin: 0; letter-spacing: -.02em; }
.ot-head h1 b { color: var(--primary-600); font-weight: 700; }
.ot-head p { margin: 0; color: var(--body-text-color-subdued); flex: 1 1 12rem; }
.ot-head a { color: var(--link-text-color); text-decoration: none; padding: .35rem .7rem; border-radius: 999px;
  border: 1px solid var(--border-color-primary); }
.ot-head a:hover, .ot-head a:focus-visible { border-color: var(--primary-500); }
.ot-buttons { display: grid !important; gap: .5rem; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); }
#codes, #codes > * { padding: 0 !important; }
.html-container:has(> .prose > .ot-status), .html-container:has(.ot-code) { padding: 0 .25rem !important; }
.ot-buttons button { height: 100%; }
.ot-sides { gap: 1.25rem; }
.ot-sides > .column { gap: .75rem; }
.ot-status { margin: 0; min-height: 1.4em; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.ot-status.error { color: #b91c1c; }
.dark .ot-status.error { color: #fca5a5; }
.ot-status.ot-said { color: var(--body-text-color); font-size: 1.1rem; }
.ot-about { padding: 0 .25rem; }
.ot-picture img { image-rendering: auto; object-fit: contain; }
.ot-empty { border: 1px dashed var(--border-color-primary); border-radius: var(--radius-lg); padding: 3rem 1.5rem;
  text-align: center; color: var(--body-text-color-subdued); margin: 0; }
.ot-overlay { position: relative; width: 100%; max-width: 560px; margin: 0 auto; aspect-ratio: 1;
  border-radius: var(--radius-lg); overflow: hidden; background: var(--neutral-200); container-type: inline-size; }
.ot-overlay > img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: fill; margin: 0; }
.ot-grid { position: absolute; inset: 0; display: grid; grid-template-columns: repeat(var(--ot-side), 1fr);
  grid-template-rows: repeat(var(--ot-side), 1fr); }
.ot-cell { all: unset; box-sizing: border-box; min-width: 0; min-height: 0; cursor: pointer; position: relative;
  border: 1px solid rgb(255 255 255 / .45); box-shadow: inset 0 0 0 .5px rgb(15 23 42 / .18);
  display: flex; align-items: end; justify-content: center; overflow: hidden; }
span.ot-cell { cursor: default; }
.ot-cell i { font: 600 clamp(8px, 2cqi, 11px)/1.35 system-ui, sans-serif; color: #fff; padding: 0 4px; margin: 2px;
  background: rgb(15 23 42 / .62); border-radius: 4px; max-width: calc(100% - 4px); box-sizing: border-box;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
@container (max-width: 420px) { .ot-grid.ot-small i { display: none; } }
.ot-cell:hover { background: rgb(79 70 229 / .28); }
.ot-cell.ot-marked { background: rgb(245 158 11 / .38); box-shadow: inset 0 0 0 2px #f59e0b; }
.ot-cell[aria-pressed="true"] { box-shadow: inset 0 0 0 3px #4f46e5; background: rgb(79 70 229 / .22); }
.ot-cell.ot-marked[aria-pressed="true"] { background: rgb(245 158 11 / .38); }
.ot-cell:focus-visible { outline: 3px solid #111827; outline-offset: -3px; box-shadow: inset 0 0 0 5px #fff; }
.ot-code { display: flex; align-items: center; gap: .5rem; margin: 0; flex-wrap: wrap; font-size: 1.1rem; }
.ot-code small { flex: 1 0 100%; color: var(--body-text-color-subdued); }
.ot-code span { color: var(--body-text-color-subdued); }
.ot-dot { width: 1rem; height: 1rem; border-radius: 50%; display: inline-block; }
.ot-pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 1rem; }
.ot-note { max-width: 42rem; padding: 1rem 1.25rem; border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-lg); background: var(--block-background-fill); }
.ot-note h3 { margin: 0 0 .5rem; }
.ot-captions { list-style: none; margin: 0; padding: 0; display: grid; gap: .4rem; max-height: 320px; overflow: auto; }
.ot-captions li { display: flex; gap: .75rem; align-items: baseline; padding: .45rem .7rem;
  border-radius: var(--radius-md); background: var(--block-background-fill);
  border: 1px solid var(--border-color-primary); }
.ot-captions time, .ot-captions small { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.ot-captions span { flex: 1; }
footer { display: none !important; }
@media (max-width: 640px) {
  .gradio-container > .main { padding: 1rem .75rem !important; }
  .tab-container button { padding: 0 .6rem !important; }
  .ot-head h1 { font-size: 1.25rem; }
  .ot-buttons button { min-height: 44px; }
  .ot-head p { order: 3; flex-basis: 100%; }
  .ot-head a { margin-left: auto; }
}
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
"""
DOOR_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid; place-items: center;
  background: #f8fafc; color: #0f172a; }
form { background: #fff; border: 1px solid #e2e8f0; border-radius: 16px; padding: 2rem; width: min(22rem, 90vw);
  box-sizing: border-box; display: grid; gap: 1rem; }
h1, p { margin: 0; } h1 { font-size: 1.5rem; } [role=alert] { color: #b91c1c; }
label { display: grid; gap: .35rem; }
input, button { font: inherit; padding: .6rem .8rem; border-radius: 10px; border: 1px solid #cbd5e1; min-width: 0; }
button { background: #4f46e5; color: #fff; border-color: #4f46e5; cursor: pointer; }
"""
ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7"
fill="#4f46e5"/><path fill="#fff" d="M7 7h8v8H7zM17 17h8v8h-8z"/><path fill="#a5b4fc" d="M17 7h8v8h-8zM7 17h8v8H7z"/>
</svg>"""
