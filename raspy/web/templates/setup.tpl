% rebase("layout.tpl")
<main id="main" class="narrow">
<h1>{{t("Welcome")}}</h1>
% if why_not:
<p>{{t("This RasPy has no password yet, and you cannot set it from here: {reason}", reason=why_not)}}</p>
<p>{{t("On the machine itself, this sets it:")}} <code>raspy passwd</code></p>
% else:
<p>{{t("This RasPy has no password yet. Choose one: whoever knows it can switch everything here.")}}</p>
<form class="card" method="post" action="/setup">
% if problem:
<p class="trouble" id="problem" role="alert">{{problem}}</p>
% end
<input type="text" name="username" value="raspy" autocomplete="username" hidden>
<p><label for="password">{{t("Password")}}</label>
<input id="password" name="password" type="password" required minlength="8" maxlength="256" autocomplete="new-password" aria-describedby="rule{{" problem" if problem else ""}}"></p>
<p class="meta" id="rule">{{t("At least 8 characters.")}}</p>
<p><label for="again">{{t("The same again")}}</label>
<input id="again" name="again" type="password" required minlength="8" maxlength="256" autocomplete="new-password"></p>
<p><button>{{t("Set the password")}}</button></p>
</form>
% end
</main>
