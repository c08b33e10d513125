% rebase("layout.tpl")
<main id="main" class="device-page" data-live="{{live}}" data-rows="{{rows_at}}" data-at="{{found_at}}" data-version="{{data_version}}" data-bus="{{bus}}">
<h1>{{title}} <small>{{name}}{{" · " + kind if kind else ""}}</small></h1>
% if problem:
<p class="trouble">{{t("Its server does not tell of it: {reason}", reason=problem)}}</p>
% end
% if form.get("unsettled"):
<p class="trouble">{{t("Its settings are not known: {reason}", reason=clean(str(form["unsettled"]), 500))}}</p>
% end
<section aria-labelledby="now">
<h2 id="now">{{t("Now")}}</h2>
<article class="card">
<dl>
% include("values.tpl", device=device)
</dl>
% include("outputs.tpl", device=device, back="/device/" + name)
</article>
</section>
% if curves:
<section aria-labelledby="history" class="history">
<h2 id="history">{{t("History")}}</h2>
% if len(curves) > 1:
<nav class="buttons" aria-label="{{t("Values")}}">
% for curve, called in curves:
<a class="chip" href="{{address(curve, span)}}"{{!' aria-current="true"' if curve == here else ""}}>{{called}}</a>
% end
</nav>
% end
<nav class="buttons" aria-label="{{t("Period")}}">
% for each, called in spans:
<a class="chip" href="{{address(here, each)}}"{{!' aria-current="true"' if each == span else ""}}>{{called}}</a>
% end
<a class="chip" href="{{earlier}}" rel="prev">{{t("Earlier")}}</a>
% if not ends_now:
<a class="chip" href="{{later}}" rel="next">{{t("Later")}}</a>
% end
</nav>
% if why_not:
<p class="trouble">{{t("There is no chart: {reason}", reason=why_not)}}</p>
% elif picture is None:
<p class="empty">{{t("Nothing is known of this time.")}}</p>
% end
% if chart is not None:
% low, high = chart.range()
<figure class="card chart">
<div id="chart" data-of="{{key}}" data-since="{{f"{since:.3f}"}}" data-until="{{f"{until:.3f}"}}" data-now="{{"1" if ends_now else ""}}" data-unit="{{chart.unit}}" data-marks="{{marks}}" data-css="{{static["uplot.css"] if plots else ""}}" data-called="{{next((called for curve, called in curves if curve == here), "")}}" data-time="{{t("Time")}}" data-mean="{{t("Mean")}}" data-low="{{t("Lowest")}}" data-high="{{t("Highest")}}" data-whole="{{t("Show the whole period")}}" data-closer="{{t("Zoom in")}}" data-back="{{t("A step back")}}" data-on="{{t("A step on")}}" data-failed="{{t("The chart could not be loaded.")}}">
% if picture is not None:
<svg viewBox="0 0 400 200" role="img" aria-label="{{t("{value}: {low} to {high} {unit}, {since} to {until}", value=here, low=text(low, t), high=text(high, t), unit=chart.unit, since=clock(since), until=clock(until))}}">
<g class="grid" stroke="currentColor" stroke-opacity=".2" font-size="11" fill="currentColor">
% for y, mark in picture.across():
<path d="M46 {{y}}H392"/><text x="42" y="{{y + 4}}" text-anchor="end" stroke="none">{{mark}}</text>
% end
% for x, mark in picture.along():
<path d="M{{x}} 8V178"/><text x="{{x}}" y="193" text-anchor="middle" stroke="none">{{mark}}</text>
% end
</g>
<path class="band" d="{{picture.band()}}" fill="currentColor" fill-opacity=".2" stroke="none"/>
<path class="line" d="{{picture.line()}}" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round"/>
</svg>
% end
</div>
<figcaption class="meta">{{t("Mean, lowest and highest.")}}
% if plots:
<span class="scripted">{{t("Drag across it to zoom.")}}</span>
% else:
{{t("Charts are off: the page was built without uPlot.")}}
% end
</figcaption>
</figure>
<details id="table" open>
<summary>{{t("The last of these values, as of {time}", time=clock(until))}}</summary>
<div class="scroll" tabindex="0" role="group" aria-label="{{t("The last of these values")}}">
<table class="card">
<thead><tr><th scope="col">{{t("Time")}}</th><th scope="col">{{t("Mean")}} {{chart.unit}}</th><th scope="col">{{t("Lowest")}}</th><th scope="col">{{t("Highest")}}</th><th scope="col">{{t("Failed")}}</th></tr></thead>
<tbody>
% for point in table:
<tr><th scope="row">{{clock(point.time)}}</th>
% for value in (point.mean, point.low, point.high):
<td>{{"—" if value is None else text(value, t)}}</td>
% end
<td>{{f"{point.bad:.0f}" if point.bad else ""}}</td></tr>
% end
</tbody>
</table>
</div>
</details>
% if happened:
<details id="happened">
<summary>{{t("What happened meanwhile ({count})", count=len(happened))}}</summary>
<ol class="card">
% for event in happened:
<li><span class="when">{{event.cells["when"]}}</span> <b>{{event.label}}</b> {{event.cells["what"]}}</li>
% end
</ol>
</details>
% end
% end
</section>
% end
% if commands:
<section aria-labelledby="commands">
<h2 id="commands">{{t("Commands")}}</h2>
% for place, called, held, html in commands:
<form class="card" method="post" action="/device/{{name}}/do/{{place}}">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<div lang="en">{{!html}}</div>
% if held:
<p><label for="time:{{place}}">{{t("For")}}</label>
<select id="time:{{place}}" name="time">
% for sent, lasts in times:
<option value="{{sent}}">{{t(lasts)}}</option>
% end
</select></p>
% end
<p><button aria-label="{{t("Do it: {command}", command=called)}}">{{t("Do it")}}</button></p>
</form>
% end
</section>
% end
% if settings:
<section aria-labelledby="settings">
<h2 id="settings">{{t("Settings")}}</h2>
<form class="card" method="post" action="/device/{{name}}/settings#settings">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<div lang="en">{{!settings}}</div>
% if device.outputs:
<p class="meta">{{t("A change of the settings puts an output into its safe state first.")}}</p>
% end
<p><button>{{t("Keep the settings")}}</button></p>
</form>
% if not keep:
<details id="delete">
<summary>{{t("Delete this device")}}</summary>
<form class="card" method="post" action="/device/{{name}}/delete">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<p><label><input type="checkbox" name="sure" value="yes" required> {{t("I am sure: its settings are gone then. Its history stays.")}}</label></p>
<p><button class="danger">{{t("Delete {name}", name=title)}}</button></p>
</form>
</details>
% end
</section>
% end
</main>
