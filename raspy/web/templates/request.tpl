% rebase("layout.tpl")
<main id="main">
<p><a href="/requests">{{t("All requests")}}</a></p>
<h1>{{title}}</h1>
<section class="card" aria-label="{{t("State")}}" data-state="{{"error" if found.state == "parked" else "stale" if found.state == "late" else "ok"}}">
<p><b class="badge">{{called.get(found.state, found.state)}}</b> {{t("{age} old", age=duration(found.age))}} · {{t("failed attempts: {count}", count=found.failures)}}</p>
% if found.reason:
<p class="trouble">{{clean(found.reason, 400)}}</p>
% end
% if found.lifetime is not None:
<p class="facts">{{t("worth it for {time} more", time=duration(found.lifetime))}}</p>
% end
<p class="meta"><code>{{found.uuid}}</code></p>
<form class="buttons" method="post" action="/requests/{{found.uuid}}">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
% if found.state == "parked":
<button name="action" value="retry">{{t("Try again")}}</button>
% end
<button name="action" value="drop" class="danger">{{t("Drop")}}</button>
</form>
% if found.state in ("pending", "in flight"):
<p class="meta">{{t("Dropped, it is not done any more; one that runs cannot be called back.")}}</p>
% end
</section>
<section aria-labelledby="body">
<h2 id="body">{{t("What it asks")}}</h2>
<ol class="card">
% for frame in shown(found.body):
<li><code>{{frame}}</code></li>
% end
</ol>
</section>
% if found.reply is not None:
<section aria-labelledby="reply">
<h2 id="reply">{{t("What was answered")}}</h2>
<ol class="card">
% for frame in shown(found.reply):
<li><code>{{frame}}</code></li>
% end
</ol>
</section>
% end
</main>
