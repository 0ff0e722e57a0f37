"""A comparison as one HTML file that needs nothing else: no script, no network, light and dark, wide and narrow.

Names, texts and paths come from outside; whatever is not written here goes through `safe`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from training.compare import TIMED, Comparison, Difference, Interval, Result, WorstClip
from training.svg import Bar, Line, bars, lines, safe

WORDS_SHOWN = 80  # of a clip: an output in loops is long
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5d6875; --page: #fff; --card: #f3f5f8; --rule: #d6dce3;
  --bar: #7b93b3; --marked: #4fa07c; --better: #1d7a4c; --worse: #b3261e; --sub: #8a5a00; --ins: #7a3fa0;
  --s0: #2f6fb5; --s1: #2f7d5b; --s2: #b3621e; --s3: #7a3fa0 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --dim: #9aa6b3; --page: #14181d; --card: #1f252c;
  --rule: #38424d; --bar: #6f8bb0; --marked: #55b389; --better: #6fd3a0; --worse: #ff8a80;
  --sub: #f0b54a; --ins: #cf9bef;
  --s0: #7fb2ea; --s1: #6fd3a0; --s2: #f0a060; --s3: #cf9bef } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--page); overflow-wrap: anywhere }
h1 { font-size: 1.5rem; margin: .5rem 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
p { max-width: 44rem } .dim, th, caption { color: var(--dim) } .better { color: var(--better); font-weight: 600 }
.worse { color: var(--worse); font-weight: 600 }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)) }
.card { background: var(--card); border-radius: .5rem; padding: .8rem 1rem } .card b { font-size: 1.3rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; overflow-wrap: normal }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: right; border-bottom: 1px solid var(--rule);
  font-variant-numeric: tabular-nums; white-space: nowrap }
th { font-weight: 400; vertical-align: bottom; white-space: normal }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 8rem; overflow-wrap: anywhere }
svg { display: block; width: 100%; max-width: 30rem; height: auto; margin: .6rem 0 } svg text { font: 12px system-ui,
  sans-serif; fill: var(--ink) } svg .tick { fill: var(--dim); font-size: 11px } .bar { fill: var(--bar) }
.marked { fill: var(--marked) } .whisker { stroke: var(--ink); stroke-width: 1.5; fill: none }
.grid { stroke: var(--rule) } .line { fill: none; stroke-width: 2 }
.s0 { stroke: var(--s0) } .s1 { stroke: var(--s1); stroke-dasharray: 6 3 }
.s2 { stroke: var(--s2); stroke-dasharray: 2 3 } .s3 { stroke: var(--s3); stroke-dasharray: 9 3 2 3 }
.dot { fill: var(--page); stroke-width: 2; stroke-dasharray: none }
details { margin: .6rem 0 } summary { cursor: pointer } .clip { margin: .9rem 0 }
.words span { display: inline-block; margin: 0 .55em .35em 0; vertical-align: top; text-align: start }
.words span > * { display: block; text-decoration: none; min-height: 1.5em } .words i { font-style: normal }
.words b { font-weight: 400 }
.substitute i { color: var(--sub); border-bottom: 2px solid }
.delete del { color: var(--worse); border-bottom: 2px dashed }
.insert ins { color: var(--ins); border-bottom: 2px dotted }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def report(comparison: Comparison, learning_curve: Sequence[Line] = (), releases: Sequence[Line] = ()) -> str:
    """The whole page; `learning_curve` has WER by clips learnt from, `releases` WER by release, where there are any."""
    clean = comparison.results[0].scored.clean
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        "<h1>How well the models hear you</h1>",
        f"<p>{clean.clips} clips, {clean.words} words, {clean.audio_s / 60:.1f} minutes of speech; "
        f'every model heard the same. <span class="dim">{made}</span></p>',
        *_promises(comparison),
        *_errors(comparison),
        *_terms(comparison),
        *_noise(comparison),
        *_costs(comparison),
        *_worst(comparison),
    ]
    if learning_curve:
        parts += ["<h2>What more recordings bring</h2>", lines("WER by recordings learnt from", learning_curve)]
    if releases:
        parts += ["<h2>Over the releases</h2>", lines("WER over the releases", releases)]
    if learning_curve or releases:
        parts.append(note("Each release was measured on the recordings held out at its time."))
    return page("idiolect: evaluation", parts)


def page(title: str, parts: Sequence[str]) -> str:
    """These pieces of HTML as a whole page in the report's style."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _promises(comparison: Comparison) -> Iterator[str]:
    if not comparison.promises:
        return
    yield '<h2>The promise: a tuned model does as well as a bigger stock one</h2><div class="cards">'
    for promise in comparison.promises:
        tuned, stock = comparison.results[promise.tuned], comparison.results[promise.rival]
        yield (
            f'<div class="card">{safe(tuned.label)} ({safe(tuned.scored.facts.tier)}) against stock '
            f"{safe(stock.scored.facts.tier)}<br><b>{tuned.wer.rate:.1%}</b> against <b>{stock.wer.rate:.1%}</b><br>"
            f"{_verdict(promise.versus)}: {promise.versus.points} points</div>"
        )
    yield "</div>"


def _errors(comparison: Comparison) -> Iterator[str]:
    results = comparison.results
    reference = results[comparison.reference].label
    yield "<h2>Errors</h2>"
    yield bars("Word error rate with 95 % intervals", [_bar(r, r.wer, comparison) for r in results])
    rows, counts = [], []
    for result in results:
        clean, name = result.scored.clean, safe(result.label)
        rows.append([name, str(result.wer), *_held(result.versus), str(result.cer), *_held(result.cer_versus)])
        english = "–" if clean.wer_english is None else f"{clean.wer_english:.1%}"
        kinds = map(str, (clean.substitutions, clean.deletions, clean.insertions))
        counts.append([name, *kinds, f"{clean.loops:.1%}", english])
    judged = ["it is", f"points against {safe(reference)}"]
    yield table(["model", "WER", *judged, "CER", *judged], rows)
    yield note(
        "WER: words wrong, missing or added, of 100 said; CER: the same of letters. In brackets the 95 % interval: "
        "drawn again and again from your clips, the figure falls into it 19 times of 20. Better or worse: the whole "
        "interval of the difference lies on one side of 0. Same: these clips cannot tell the two apart. Loops: outputs "
        "that run on."
    )
    yield table(["model", "words wrong", "missing", "added", "outputs in loops", "WER, English rules"], counts)
    for result in results:
        if result.label != result.scored.clean.model:
            yield note(f"{safe(result.label)} is {safe(result.scored.clean.model)}")


def _terms(comparison: Comparison) -> Iterator[str]:
    terms, results = comparison.vocabulary.terms, comparison.results
    yield f"<h2>Words that matter: {safe(comparison.vocabulary.source)}</h2>"
    if not terms:
        yield note("None: a word counts when it is said three times and missed more than half of them.")
        return
    groups = [comparison.groups(result) for result in results]
    rows = []
    for group in groups[0]:
        heard = [str(recalls[group]) for recalls in groups]
        rows.append([f"<b>{safe(group)}</b>", str(groups[0][group].said), *heard])
        for place in comparison.places(group):
            recalls = [result.terms[place] for result in results]
            rows.append([safe(terms[place].text), str(recalls[0].said), *(str(recall.heard) for recall in recalls)])
    yield table(["term", "said", *(f"heard by {safe(result.label)}" for result in results)], rows) if rows else ""
    if never := comparison.never_said():
        yield note(f"Never said in these clips: {safe(', '.join(never))}")
    if comparison.vocabulary.is_missed:
        yield note("They were chosen because that model missed them, so its figures here look worse than it is.")
    rows = []
    for result in results:
        sides = ((result.with_terms, result.with_terms_versus), (result.without_terms, result.without_terms_versus))
        cells = [[str(wer or "–"), _verdict(versus) if versus else "–"] for wer, versus in sides]
        rows.append([safe(result.label), *cells[0], *cells[1]])
    heads = [f"WER, {comparison.with_terms} clips with such a word", "it is", "WER, the other clips", "it is"]
    yield table(["model", *heads], rows) if comparison.with_terms else ""


def _noise(comparison: Comparison) -> Iterator[str]:
    if comparison.noise_db is None:
        return
    yield f"<h2>In noise: speech-like, the voice {comparison.noise_db:+g} dB above it</h2>"
    heard = [(result, result.noisy, result.noise_loss) for result in comparison.results]
    yield bars("Word error rate in noise", [_bar(r, noisy, comparison) for r, noisy, _ in heard if noisy])
    rows = [
        [
            safe(result.label),
            f"{result.wer.rate:.1%}",
            str(noisy),
            loss.points,
            _verdict(result.noisy_versus) if result.noisy_versus else "reference",
        ]
        for result, noisy, loss in heard
        if noisy and loss
    ]
    yield table(["model", "WER clean", "WER in noise", "lost, in points", "in noise it is"], rows)


def _costs(comparison: Comparison) -> Iterator[str]:
    yield "<h2>What they cost</h2>"
    rows = []
    for result in comparison.results:
        clean, facts = result.scored.clean, result.scored.facts
        rows.append(
            [
                safe(result.label),
                f"{1 / clean.rtf:.1f} ×" if clean.rtf else "–",
                f"{clean.rtf:.3f}",
                megabytes(clean.peak_memory_bytes),
                f"{facts.parameters / 1e6:.1f} M" if facts.parameters else "–",
                megabytes(facts.size_bytes),
                safe(clean.runtime),
            ]
        )
    heads = ["model", "real time", "real-time factor", "peak memory", "parameters", "on disk", "runs in"]
    yield table(heads, rows)
    yield note(TIMED)


def _worst(comparison: Comparison) -> Iterator[str]:
    yield "<h2>The worst clips</h2>"
    yield (
        '<p class="words">Above what was said, below what was heard: '
        '<span class="substitute"><i>another word</i></span>'
        '<span class="delete"><del>missing</del></span><span class="insert"><ins>added</ins></span></p>'
    )
    for place, result in enumerate(comparison.results):
        if not result.worst:
            continue
        opened = " open" if place == comparison.subject else ""
        yield f"<details{opened}><summary>{safe(result.label)}: {len(result.worst)} with most errors</summary>"
        yield from map(_clip, result.worst)
        yield "</details>"


def _clip(clip: WorstClip) -> str:
    marked: dict[str, Callable[[str, str], str]] = {
        "equal": lambda said, heard: f"<b>{said}</b>",
        "substitute": lambda said, heard: f"<b>{said}</b><i>{heard}</i>",
        "delete": lambda said, heard: f"<del>{said}</del><i>·</i>",
        "insert": lambda said, heard: f"<b>·</b><ins>{heard}</ins>",
    }
    words = "\n".join(
        f'<span class="{place.operation}">{marked[place.operation](safe(place.said), safe(place.heard))}</span>'
        for place in clip.alignment[:WORDS_SHOWN]
    )
    words += " …" if len(clip.alignment) > WORDS_SHOWN else ""
    count = f'<span class="dim">{clip.count}</span>'
    return f'<div class="clip">{safe(clip.clip)} {count}<div class="words" dir="auto">{words}</div></div>'


def _bar(result: Result, rate: Interval, comparison: Comparison) -> Bar:
    is_reference = result is comparison.results[comparison.reference]
    return Bar(result.label, rate.rate, rate.low, rate.high, is_marked=not (result.scored.facts.stock or is_reference))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def note(text: str) -> str:
    return f'<p class="dim">{text}</p>'


def _held(versus: Difference | None) -> list[str]:
    return [_verdict(versus), versus.points] if versus else ["reference", "–"]


def _verdict(difference: Difference) -> str:
    shown = difference.verdict if difference.verdict in {"better", "worse"} else "dim"
    return f'<span class="{shown}">{difference.verdict}</span>'


def megabytes(size_bytes: int | None) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes else "–"
