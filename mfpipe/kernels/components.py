"""Which rows hang together: the connected components of the graph whose edges are rated pairs."""

from mfpipe.kernels import kernel, part


@part
def _root(parents, node):
    while parents[node] != node:
        parents[node] = parents[parents[node]]  # halves the way of the next who comes here
        node = parents[node]
    return node


@kernel
def number_components(users, items, n_users, labels):
    """Number each row's component, from 0, in the order of their first rows.

    Parameters
    ----------
    users, items : int32, shape (n,)
    n_users : int
    labels : out, int32, shape (users + items,)
        Of users, then of items.

    Returns
    -------
    int
        The number of components.

    References
    ----------
    Tarjan, van Leeuwen: Worst-case analysis of set union algorithms, J. ACM 31(2), 1984 (path halving).
    """
    for node in range(len(labels)):
        labels[node] = node
    for n in range(len(users)):
        user, item = _root(labels, users[n]), _root(labels, n_users + items[n])
        if user != item:
            labels[max(user, item)] = min(user, item)
    # Now labels are parents, none after its children: each is renamed before they are.
    count = 0
    for node in range(len(labels)):
        if labels[node] == node:
            labels[node] = count
            count += 1
        else:
            labels[node] = labels[labels[node]]
    return count
