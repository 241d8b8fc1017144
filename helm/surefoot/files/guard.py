# Refuse an upgrade that takes a worker group away which still may have workers: KubeRay would leave their pods behind.

import sys

NAME, GROUPS = os.environ["CLUSTER"], os.environ["GROUPS_LEFT"].split()

status, found = call("GET", f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayclusters/{NAME}")
if status == 404:
    sys.exit(print("there is no RayCluster yet"))
groups = found["spec"].get("workerGroupSpecs", [])
kept = [group["groupName"] for group in groups if group["groupName"] not in GROUPS and group.get("maxReplicas") != 0]
if kept:
    sys.exit(
        f"worker group {', '.join(kept)} is no longer in the values, but may have workers: KubeRay would leave their pods behind. "
        "First upgrade with minReplicas: 0 and maxReplicas: 0 for it, wait until its pods are gone, then take it out."
    )
print(f"worker groups: {', '.join(GROUPS)}")
