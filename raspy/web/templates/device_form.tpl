% rebase("layout.tpl")
<main id="main" class="narrow">
<h1>{{title}} <small>{{oid}}</small></h1>
<form class="card" method="post" action="{{action}}">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<div lang="en">{{!html}}</div>
<p><button>{{t("Make it")}}</button></p>
</form>
</main>
