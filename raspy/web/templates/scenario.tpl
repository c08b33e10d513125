% rebase("layout.tpl")
<main id="main" data-live="{{live}}" data-version="{{data_version}}" data-bus="{{bus}}">
<p><a href="/scenarios">{{t("All scenarios")}}</a></p>
<h1>{{title}} <small>{{found.name if found.label else ""}}</small></h1>
<section class="card scenario" aria-label="{{t("State")}}" data-key="{{row.key}}" data-state="{{row.state}}">
<p><b class="badge" data-cell="badge">{{row.cells["badge"]}}</b> <span data-cell="story">{{row.cells["story"]}}</span></p>
<p class="facts" data-cell="facts">{{row.cells["facts"]}}</p>
<form class="buttons" method="post" action="{{path}}">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<button name="action" value="run">{{t("Run")}}</button>
<button name="action" value="stop">{{t("Stop")}}</button>
% if found.active:
<button name="action" value="disable">{{t("Disable")}}</button>
% else:
<button name="action" value="enable">{{t("Enable")}}</button>
% end
% if found.state == "paused":
<button name="action" value="resume">{{t("Resume")}}</button>
% end
</form>
<p class="buttons"><a class="button" href="/scenarios/{{found.name}}/edit">{{t("Change…")}}</a>
<a class="button" href="/scenarios/{{found.name}}/export">{{t("Export")}}</a>
<a class="button" href="/scenarios/{{found.name}}/delete">{{t("Delete…")}}</a></p>
</section>
<section id="printed" data-refresh="{{path}}" data-editor="/scenarios/{{found.name}}/edit">
% if traceback:
<h2 id="traceback">{{t("Its last failure")}}</h2>
% if line:
<p><a href="/scenarios/{{found.name}}/edit?line={{line}}">{{t("Line {line} in the editor", line=line)}}</a></p>
% end
<pre class="card output" tabindex="0" role="region" aria-labelledby="traceback">{{traceback}}</pre>
% end
<h2 id="output">{{t("What it printed last")}}</h2>
% if output:
<pre class="card output" tabindex="0" role="region" aria-labelledby="output">{{output}}</pre>
% else:
<p class="empty">{{t("Nothing.")}}</p>
% end
<p class="meta"><a href="{{path}}">{{t("Load it anew")}}</a></p>
</section>
<section aria-labelledby="fired">
<h2 id="fired">{{t("What fires it")}}</h2>
% if not found.active:
<p class="meta">{{t("It is not enabled: it runs by hand only.")}}</p>
% end
% if fired:
<ul class="card">
% for text in fired:
<li>{{text}}</li>
% end
</ul>
% else:
<p class="empty">{{t("A hand, another scenario, or a job of the schedule.")}}</p>
% end
</section>
% if entries:
<section aria-labelledby="entries">
<h2 id="entries">{{t("Entries")}}</h2>
<dl class="card">
% for name, key in entries:
<div class="reading"><dt>{{name}}</dt><dd><code>{{key}}</code></dd></div>
% end
</dl>
</section>
% end
<section aria-labelledby="limits">
<h2 id="limits">{{t("Limits")}}</h2>
<dl class="card">
% for called, fact in facts:
<div class="reading"><dt>{{called}}</dt><dd>{{fact}}</dd></div>
% end
</dl>
</section>
</main>
