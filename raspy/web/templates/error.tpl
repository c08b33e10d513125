% rebase("layout.tpl")
<main id="main">
<h1>{{status}}</h1>
<p>{{reason}}</p>
<p><a href="/">{{t("To the page with all values")}}</a></p>
</main>
