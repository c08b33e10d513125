% rebase("layout.tpl")
<main id="main">
<h1>{{title}}</h1>
<p class="meta">{{t("What must not get lost goes through Titanic, which keeps it until it is done: commands of jobs, and what other programs ask for.")}}</p>
% if problem:
<p class="trouble">{{problem}}</p>
% end
% if counts:
<ul class="buttons" aria-label="{{t("States")}}">
<li><a class="button" href="/requests"{{!' aria-current="true"' if not chosen else ""}}>{{t("to be seen to")}}</a></li>
% for state in states:
% count = counts.get(state, 0) + (counts.get("in flight", 0) if state == "pending" else 0)
<li><a class="button" href="/requests?state={{state}}"{{!' aria-current="true"' if chosen == state else ""}}>{{t("waiting or running") if state == "pending" else called[state]}}: {{count}}</a></li>
% end
</ul>
% end
% for part in parts:
<section aria-labelledby="{{part.state}}">
<h2 id="{{part.state}}">{{t("Waiting or running") if part.state == "pending" else called[part.state].capitalize()}}</h2>
% if not part.shown:
<p class="empty">{{t("None.")}}</p>
% else:
<ul class="card">
% for one in part.shown:
<li class="server request" data-state="{{"error" if one.state == "parked" else "stale" if one.state == "late" else "ok"}}">
<h3><a href="/requests/{{one.uuid}}">{{clean(one.service, 120)}}</a> <b class="badge">{{called.get(one.state, one.state)}}</b></h3>
% if one.reason:
<p class="trouble">{{clean(one.reason, 400)}}</p>
% end
<p class="facts">{{t("{age} old", age=duration(one.age))}} · {{t("failed attempts: {count}", count=one.failures)}}\\
% if one.lifetime is not None:
 · {{t("worth it for {time} more", time=duration(one.lifetime))}}\\
% end
</p>
% if one.state in over:
<form class="buttons" method="post" action="/requests/{{one.uuid}}">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="hidden" name="state" value="{{chosen}}">
% if one.state == "parked":
<button name="action" value="retry" aria-label="{{t("Try {service} again", service=clean(one.service, 120))}}">{{t("Try again")}}</button>
% end
<button name="action" value="drop" aria-label="{{t("Drop {service}", service=clean(one.service, 120))}}">{{t("Drop")}}</button>
</form>
% end
</li>
% end
</ul>
% if not chosen and part.all > len(part.shown):
<p><a href="/requests?state={{part.state}}">{{t("All of them")}}</a></p>
% end
% if chosen and part.pages > 1:
<nav class="buttons" aria-label="{{t("Parts of the list")}}">
% if part.page > 1:
<a class="button" rel="prev" href="/requests?state={{part.state}}&amp;page={{part.page - 1}}">{{t("Older")}}</a>
% end
<span>{{t("{page} of {pages}", page=part.page, pages=part.pages)}}</span>
% if part.page < part.pages:
<a class="button" rel="next" href="/requests?state={{part.state}}&amp;page={{part.page + 1}}">{{t("Newer")}}</a>
% end
</nav>
% end
% if chosen and part.more:
<p class="meta">{{t("These are the oldest {count}; there are more.", count=part.all)}}</p>
% end
% end
</section>
% end
</main>
