// Pulumi's Automation API runs the program in this process, so no language host is needed.
import { LocalWorkspace } from "@pulumi/pulumi/automation";
import { network } from "./network";

async function run(): Promise<void> {
    const stack = await LocalWorkspace.createStack({ stackName: "dev", projectName: "typescript", program: network });
    await stack.setConfig("hostnet:stateDir", { value: process.env.STATE_DIR! });
    const made = await stack.up();
    const preview = await stack.preview({ expectNoChanges: true });
    await stack.destroy();
    console.log(JSON.stringify({ made: made.summary.resourceChanges, again: preview.changeSummary, outputs: made.outputs }));
}

run().catch((error) => {
    console.error(error);
    process.exit(1);
});
