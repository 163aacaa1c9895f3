#!/bin/sh
cat <<'END'
securechat: open a room on port 9000:      securechat -listen :9000
securechat: then make a code for a guest:  securechat -invite NAME
securechat: keys are in ~/.config/securechat of the user that runs it; man securechat explains the rest
END
