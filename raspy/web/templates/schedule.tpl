% rebase("layout.tpl")
<main id="main">
<h1>{{title}}</h1>
<p class="buttons"><a class="button" href="/schedule/new">{{t("New job")}}</a></p>
% if problem:
<p class="trouble">{{problem}}</p>
% elif not jobs:
<p class="empty">{{t("There is no job yet.")}}</p>
% end
% if zone:
<p class="meta">{{t("Times are those of {zone}.", zone=zone)}}</p>
% end
% if jobs:
<ul class="card">
% for job in jobs:
<li class="server job" data-state="{{"error" if job.problem else "ok" if job.active else "stale"}}">
<h2>{{job.called}} <small>{{job.name if job.settings.get("label") else ""}}</small> <b class="badge">{{t("cannot be used") if job.problem else t("active") if job.active else t("over") if job.settings.get("active", True) else t("rests")}}</b></h2>
% if job.problem:
<p class="trouble">{{clean(job.problem, 500)}}</p>
% else:
<p><code>{{job.when}}</code> {{does(visit, job)}}</p>
% if job.next:
<ol class="times" aria-label="{{t("Next times of {name}", name=job.name)}}">
% for stamp in job.next:
<li>{{at(stamp)}}</li>
% end
</ol>
% end
<p class="facts">{{t("last {time}", time=at(job.last)) if job.last else t("it has not fired yet")}} · {{t("fired {count} times", count=job.runs)}}\\
% if job.missed:
 · {{t("missed {count}", count=job.missed)}}\\
% end
</p>
% if job.note:
<p class="note">{{clean(job.note, 500)}}</p>
% end
% end
% if not job.problem:
<form class="buttons" method="post" action="/schedule/{{job.name}}/act">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<button name="action" value="run" aria-label="{{t("Run {name} now", name=job.name)}}">{{t("Run now")}}</button>
% if job.settings.get("active", True):
<button name="action" value="disable" aria-label="{{t("Disable {name}", name=job.name)}}">{{t("Disable")}}</button>
% else:
<button name="action" value="enable" aria-label="{{t("Enable {name}", name=job.name)}}">{{t("Enable")}}</button>
% end
</form>
% end
<p class="buttons"><a href="/schedule/{{job.name}}/edit" aria-label="{{t("Change {name}", name=job.name)}}">{{t("Change…")}}</a>
<a href="/schedule/{{job.name}}/delete" aria-label="{{t("Delete {name}", name=job.name)}}">{{t("Delete…")}}</a></p>
</li>
% end
</ul>
% end
% if timed:
<section aria-labelledby="timed">
<h2 id="timed">{{t("Scenarios with times of their own")}}</h2>
<ul class="card">
% for one in timed:
<li class="server"><a href="/scenarios/{{one.name}}/edit">{{one.called}}</a> <b class="badge">{{t("active") if one.active else t("by hand only")}}</b>
% for when in one.conf["schedule"]:
<p><code>{{clean(str(when))}}</code></p>
% if one.active and str(when) in following:
<ol class="times" aria-label="{{t("Next times of {name}", name=one.called)}}">
% for stamp in following[str(when)].next:
<li>{{at(stamp)}}</li>
% end
</ol>
% end
% end
</li>
% end
</ul>
</section>
% end
</main>
