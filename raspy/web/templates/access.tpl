% rebase("layout.tpl")
<main id="main" class="narrow">
<h1>{{title}}</h1>
<p class="buttons"><a href="/system">{{t("Back to the system")}}</a></p>
<section aria-labelledby="tokens">
<h2 id="tokens">{{t("Tokens for programs")}}</h2>
<p>{{t("A program shows a token to read values, or to switch things too, by the API and /metrics.")}}</p>
% if secret:
<div class="card fresh" role="status">
<p>{{t("The token {name}. It is shown this once; copy it now:", name=name)}}</p>
<p><code class="secret">{{secret}}</code></p>
<p class="meta">{{t("A program sends it with each request, as:")}} <code>Authorization: Bearer …</code></p>
</div>
% end
% if tokens:
<ul class="card">
% for token in tokens:
<li class="server">
<h3>{{token.name}} <b class="badge">{{t("read and write") if token.writes else t("read")}}</b></h3>
<p class="facts">{{t("made on {day}", day=day(token.made))}} · {{t("last used on {day}", day=day(token.used)) if token.used else t("never used")}}</p>
<form class="buttons" method="post" action="/system/tokens/revoke">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<button name="name" value="{{token.name}}" aria-label="{{t("Revoke the token {name}", name=token.name)}}">{{t("Revoke")}}</button>
</form>
</li>
% end
</ul>
% else:
<p class="empty">{{t("There is no token.")}}</p>
% end
<form class="card" method="post" action="/system/tokens">
% if token_problem:
<p class="trouble" id="token-problem" role="alert">{{token_problem}}</p>
% end
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<p><label for="token-name">{{t("Name of the program")}}</label>
<input id="token-name" name="name" required maxlength="40" autocomplete="off" value="{{name if token_problem else ""}}"{{!' aria-describedby="token-problem"' if token_problem else ""}}></p>
<fieldset>
<legend>{{t("It may")}}</legend>
<label><input type="radio" name="scope" value="read" checked> {{t("read")}}</label>
<label><input type="radio" name="scope" value="write"> {{t("read, and switch and change things")}}</label>
</fieldset>
<p><button>{{t("Make a token")}}</button></p>
</form>
</section>
<section aria-labelledby="password-title">
<h2 id="password-title">{{t("Password")}}</h2>
<form class="card" method="post" action="/system/password">
% if password_problem:
<p class="trouble" id="problem" role="alert">{{password_problem}}</p>
% end
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="text" name="username" value="raspy" autocomplete="username" hidden>
<p><label for="old">{{t("Old password")}}</label>
<input id="old" name="old" type="password" required maxlength="256" autocomplete="current-password"{{!' aria-describedby="problem"' if password_problem else ""}}></p>
<p><label for="password">{{t("New password")}}</label>
<input id="password" name="password" type="password" required minlength="8" maxlength="256" autocomplete="new-password" aria-describedby="rule"></p>
<p class="meta" id="rule">{{t("At least 8 characters. All other sessions end; tokens stay.")}}</p>
<p><label for="again">{{t("The same again")}}</label>
<input id="again" name="again" type="password" required minlength="8" maxlength="256" autocomplete="new-password"></p>
<p><button>{{t("Change the password")}}</button></p>
</form>
</section>
<section aria-labelledby="sessions">
<h2 id="sessions">{{t("Sessions")}}</h2>
<ul class="card">
% for session, own in sessions:
<li class="server">
<h3>{{session.agent or t("an unknown browser")}}
% if own:
<b class="badge">{{t("this one")}}</b>
% end
</h3>
<p class="facts">{{t("logged in on {day}", day=day(session.made))}} · {{t("last used on {day}", day=day(session.seen))}}</p>
</li>
% end
</ul>
% if len(sessions) > 1:
<form class="buttons" method="post" action="/system/sessions">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<button>{{t("End all other sessions")}}</button>
</form>
% end
</section>
</main>
