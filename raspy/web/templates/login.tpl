% rebase("layout.tpl")
<main id="main" class="narrow">
<h1>{{t("Log in")}}</h1>
<form class="card" method="post" action="/login">
% if trouble:
<p class="trouble" role="alert">{{t("Nobody can log in until raspy passwd has set a new password: {reason}", reason=trouble)}}</p>
% end
% if problem:
<p class="trouble" id="problem" role="alert">{{problem}}</p>
% end
<input type="hidden" name="back" value="{{back}}">
<p><label for="password">{{t("Password")}}</label>
<input id="password" name="password" type="password" required autocomplete="current-password" autofocus{{!' aria-describedby="problem"' if problem else ""}}></p>
<p><button>{{t("Log in")}}</button></p>
</form>
<p class="meta">{{t("Forgotten? On the machine itself: raspy passwd")}}</p>
</main>
