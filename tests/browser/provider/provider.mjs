// A real OpenID Provider (npm package oidc-provider, OpenID certified) for the tests. Anybody may sign in under any
// login; what it says of them comes from the accounts given. Prints its port when it listens.
//
//   node provider.mjs '{"redirect": "...", "logout": "...", "accounts": {"kim": {"email": "..."}}}'
import { createServer } from "node:http";
import Provider from "oidc-provider";

const { redirect, logout, accounts } = JSON.parse(process.argv[2]);
const server = createServer().listen(0, "127.0.0.1", () => {
  const { port } = server.address();
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [{
      client_id: "gpuaas",
      client_secret: "a secret that only the tests know",
      redirect_uris: [redirect],
      backchannel_logout_uri: logout,
      backchannel_logout_session_required: true,
    }],
    pkce: { required: () => true },
    conformIdTokenClaims: false,
    claims: { openid: ["sub"], profile: ["name", "groups", "organisation"], email: ["email", "email_verified"] },
    cookies: { keys: ["of the tests"] },
    features: { backchannelLogout: { enabled: true } },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...accounts[id] }) }),
  });
  provider.on("backchannel.error", (_, error) => console.error("backchannel", error.message));
  provider.on("backchannel.success", () => console.error("backchannel done"));
  server.on("request", provider.callback());
  console.log(port);
});
