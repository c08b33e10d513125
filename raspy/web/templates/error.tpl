% rebase("layout.tpl", title=status)
<main>
<h2>{{status}}</h2>
<p>{{reason}}</p>
<p><a href="/">To the page with all values</a></p>
</main>
