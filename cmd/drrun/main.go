// Command drrun is the runtime and its command line: it applies estates, makes
// join tokens, runs recovery plans, shows what is going on, and serves all of
// that to other shells (drrun serve).
//
// Commands are one file each; each talks to a runtime through runtime/control
// only: a controller that runs already, or the one that cmd/internal/compose
// makes for as long as the command lasts. What belongs to the operating system
// (arguments, environment, standard streams, signals) comes in through one Env,
// so that tests run whole commands in their own process.
package main

import (
	"os"

	"github.com/drrun/drrun/cmd/internal/plantest"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == plantest.ChildCommand {
		plantest.Serve(os.Stdin, os.NewFile(3, "events")) // the first file that a parent hands over
		return
	}
	os.Exit(Main(osEnv()))
}
