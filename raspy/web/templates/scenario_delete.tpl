% rebase("layout.tpl")
<main id="main" class="narrow">
<h1>{{title}}</h1>
<form class="card" method="post" action="/scenarios/{{found.name}}/delete">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<p>{{t("Its code, its settings and what it printed are gone then. If it runs it is stopped.")}}</p>
<p><a href="/scenarios/{{found.name}}/export">{{t("Export it first")}}</a></p>
<p class="buttons"><button class="danger">{{t("Delete it")}}</button> <a class="button" href="{{path}}">{{t("Keep it")}}</a></p>
</form>
</main>
