% rebase("layout.tpl")
<main id="main" class="narrow" data-then="{{then}}">
<h1>{{title}}</h1>
<p role="status">{{text}}</p>
<p class="buttons"><a href="{{then}}">{{t("Look now")}}</a></p>
</main>
