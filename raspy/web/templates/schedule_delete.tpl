% rebase("layout.tpl")
<main id="main" class="narrow">
<h1>{{title}}</h1>
<form class="card" method="post" action="/schedule/{{job.name}}/delete">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<p><code>{{job.when}}</code> {{clean(job.problem, 500) or does}}</p>
<p class="buttons"><button class="danger">{{t("Delete it")}}</button> <a class="button" href="/schedule">{{t("Keep it")}}</a></p>
</form>
</main>
